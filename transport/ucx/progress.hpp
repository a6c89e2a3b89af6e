// What the progress thread does: peers, pulls, deadlines. A plain single-threaded object whose time
// is a parameter; the thread around it is in fabric.cpp. Private to transport/ucx.
#pragma once

#include <deque>
#include <set>
#include <unordered_map>

#include "transport/ledger.hpp"
#include "transport/ucx/peer.hpp"
#include "transport/ucx/server.hpp"

namespace troupe::transport::ucx {

class progress {
 public:
  progress(const ucx_options& options, worker& on, ledger& book, const event_sink& sink);

  // Before anything else: takes the worker's messages.
  result<void> listen();

  void connect(node_address address, time_point now);
  void disconnect(incarnation id, time_point now);
  void start(pull_request request, time_point now);
  void cancel(op_id op, time_point now);

  // One round: network, one slice of copying, deadlines, completions. True if there is more to do
  // at once.
  bool round(time_point now);
  // When round() must run again even if nothing happens.
  std::optional<time_point> next_deadline() const;

  void close_all(time_point now);
  bool idle() const { return peers_.empty() && pulls_.empty() && server_.idle(); }

 private:
  void bring_up(peer& p);
  void take_down(peer& p, error reason, bool by_us);
  void watch_peers(time_point now);
  void place(pull_op& op);  // into the queue of the way it will take
  void begin_pieces(peer& p);
  void hear_welcome(const welcome_header& welcome);
  void hear_data(const data_header& header, const std::byte* bytes, std::size_t size);
  void forget_tickets(pull_op& op);
  void on_get_ended(ticket& t, ucs_status_t status);
  void sum_landed();
  bool copy_slice(time_point now);
  void expire(time_point now);
  void settle(pull_op& op, time_point now);  // delivers its end if it has come
  void settle_all(time_point now);

  const ucx_options& options_;
  worker& worker_;
  ledger& book_;
  const event_sink& sink_;
  server server_;
  std::map<incarnation, std::unique_ptr<peer>> peers_;
  std::set<incarnation> closed_by_us_;
  std::unordered_map<std::uint64_t, std::unique_ptr<pull_op>> pulls_;
  std::set<std::pair<time_point, std::uint64_t>> deadlines_;
  std::deque<pull_op*> copies_;  // mapped path: round robin, a slice each
  std::unordered_map<std::uint64_t, ticket*>
      wanted_;                          // pieces asked for, by their number on the wire
  std::vector<ticket*> landed_;         // pieces that were got and whose checksum is wanted
  std::vector<std::uint64_t> changed_;  // pulls that may have ended
  std::uint64_t next_ticket_ = 1, next_connection_ = 1;
  bool more_ = false, blocked_ = false;
};

}  // namespace troupe::transport::ucx
