// One connection of the HTTP server: reads requests, writes answers, notices when the client leaves
// or is too slow.
//
//   reading ──complete──► busy (an exchange) ──answered, all written──► reading
//      │ malformed, too large, too slow: refused              └─ not keep-alive ─► lingering ──►
//      closed └──► lingering ──► closed
//
// A read is always pending, also while busy: its end is how a client's departure is noticed.
// Everything runs on the connection's strand.
#pragma once

#include <array>
#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <memory>
#include <string>

#include "api/http_server.hpp"

namespace troupe::api {

class connection : public std::enable_shared_from_this<connection> {
 public:
  // `context` is what the socket runs on: it must outlive every connection, also one that a handler still holds.
  connection(std::shared_ptr<void> context, boost::asio::ip::tcp::socket socket,
             const http_server_options& options, std::shared_ptr<http_handler> handler,
             std::shared_ptr<std::atomic<std::size_t>> open);
  ~connection();

  void start();
  void refuse(const api_error& e);  // instead of start
  void shut();                      // any thread

 private:
  class http_exchange;
  enum class phase : std::uint8_t { idle, header, body, busy, lingering };

  void read();
  void on_read(const boost::system::error_code& code, std::size_t bytes);
  void on_peer_closed();
  void process();
  void enter(phase next);
  void on_read_timeout();

  void send(std::string bytes);
  void write_some();
  void on_written(const boost::system::error_code& code, std::size_t bytes);
  void finish_answer(bool keep_alive);
  void linger();
  void close();
  void arm_ping();

  const std::shared_ptr<void> context_;
  boost::asio::ip::tcp::socket socket_;
  const http_server_options options_;
  const std::shared_ptr<http_handler> handler_;
  const std::shared_ptr<std::atomic<std::size_t>> open_;
  request_parser parser_;
  boost::asio::steady_timer read_timer_, write_timer_, ping_timer_, task_timer_;

  std::array<char, 16384> input_;
  bool reading_ = false;
  bool peer_closed_ = false;
  phase phase_ = phase::idle;
  bool first_request_ = true;
  bool read_timer_armed_ = false;

  std::string writing_, queued_;  // the first is being sent from writing_[written_] on
  std::size_t written_ = 0;
  bool close_when_written_ = false;
  bool closed_ = false;

  // Of the exchange under way.
  std::uint64_t serial_ = 0;  // counts exchanges: one that has ended must not touch the next
  unsigned version_ = 11;
  bool keep_alive_ = true, head_only_ = false, chunked_ = false, streaming_ = false;
  std::chrono::milliseconds ping_{0};
  bool wrote_since_ping_ = false;
  std::function<void()> closed_task_;
};

}  // namespace troupe::api
