// The addresses of hosts. The system's resolver blocks, for many seconds where a name server is silent, so names are looked
// up on threads of this object: a few at most, which begin with the first name and idle without cost. Numbers need none.
//
// Threads: every function from any thread. The destructor waits for what is being looked up, which the system bounds.
#pragma once

#include <sys/socket.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace troupe::actors {

class name_resolver {
 public:
  struct address {
    sockaddr_storage at{};
    socklen_t size = 0;
  };
  using addresses = std::vector<address>;  // without a port; empty: there is no such host
  using lookup_function = std::function<addresses(const std::string& host)>;

  class lookup {
   public:
    bool ended() const { return ended_.load(std::memory_order_acquire); }
    const addresses& found() const { return found_; }  // REQUIRES: ended()

   private:
    friend class name_resolver;
    void end(addresses found) {
      found_ = std::move(found);
      ended_.store(true, std::memory_order_release);
    }
    std::string host_;
    addresses found_;
    std::atomic<bool> ended_{false};
  };

  static addresses ask_system(const std::string& host);
  // The other end of a connection; empty: it is none any more.
  static std::string number_of_peer(int socket);

  explicit name_resolver(lookup_function ask = ask_system) : ask_(std::move(ask)) {}
  ~name_resolver();

  // Looked at until it has ended. One that nobody holds any more is not begun.
  std::shared_ptr<const lookup> look_up(const std::string& host);

 private:
  void run();

  const lookup_function ask_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::weak_ptr<lookup>> waiting_;
  std::size_t idle_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace troupe::actors
