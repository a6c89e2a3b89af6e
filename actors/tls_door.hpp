// Stands at a listening socket and lets in who proves the cluster's secret. Others learn nothing: they see the begin of a
// TLS handshake and the end of the connection.
//
// Who connects has `patience` for its handshake, and at most `handshakes` are under way: one more, and the one that waits
// longest gives way. So whoever keeps silent, or is slow, holds nothing for long.
//
// Threads: one of its own, which idles without cost; the functions are for one other.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "actors/tls.hpp"

namespace troupe::actors {

// Of all doors of this process since it began.
std::uint64_t connections_refused(tls_refusal why);

class tls_door {
 public:
  struct limits {
    std::size_t handshakes = 256;
    std::chrono::milliseconds patience{5000};
  };
  // `listening` is closed with this.
  tls_door(std::shared_ptr<const tls_key> key, int listening, limits bounds);
  tls_door(const tls_door&) = delete;
  tls_door& operator=(const tls_door&) = delete;
  ~tls_door();

  int listening() const { return listening_; }
  // Can be read while take() has something.
  int ready() const { return ready_; }
  // Established; null: nobody came in.
  std::unique_ptr<tls_session> take();

 private:
  using time_point = std::chrono::steady_clock::time_point;
  struct guest {
    std::unique_ptr<tls_session> session;
    time_point until;
    bool over = false;
  };

  void run();
  int pause(time_point now) const;  // milliseconds, as poll takes them
  void advance(guest& g);
  void welcome(time_point now);
  void refuse(guest& g, tls_refusal why);
  void tell(time_point now);

  const std::shared_ptr<const tls_key> key_;
  const int listening_, ready_, wake_;
  const limits bounds_;
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::deque<std::unique_ptr<tls_session>> in_;

  // Of the thread.
  std::deque<guest> guests_;  // the oldest first
  time_point accept_next_{};  // descriptors are short until then
  std::uint64_t refused_ = 0;
  std::string refused_last_;
  time_point tell_next_{};
  std::thread thread_;  // last: it uses the others
};

}  // namespace troupe::actors
