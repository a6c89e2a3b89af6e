// The owner's side of pulls over TCP: answers hello and read messages of other processes from this process's regions,
// and nothing outside them. Private to transport/ucx; progress thread.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "base/secrets.hpp"
#include "transport/ledger.hpp"
#include "transport/staging.hpp"
#include "transport/ucx/endpoint.hpp"
#include "transport/ucx/inbox.hpp"

namespace troupe::transport::ucx {

class server {
 public:
  server(worker& on, ledger& book, const ucx_options& options, const hello_key& key,
         std::shared_ptr<inbox> ends)
      : worker_(on),
        book_(book),
        key_(key),
        device_(options.device.get()),
        leaving_slots_(device_, options.staging_bytes, options.staging_rest),
        ends_(std::move(ends)) {}

  // From message handlers: only remembers; round() answers.
  void hear_hello(const hello_header& hello, std::string_view worker_address);
  void hear_read(const read_header& read, time_point now);
  void hear_end(const end_header& end);

  // Counts; says so in the log now and then.
  void refuse(refusal why);

  // True if there is more to do at once.
  bool round(time_point now);
  void close_all();
  bool idle() const { return clients_.empty() && leaving_.empty() && leaving_slots_.taken() == 0; }
  bool closing() const { return !leaving_.empty(); }
  std::optional<time_point> rests_at() const { return leaving_slots_.rests_at(); }
  // Something waits for the network to take it.
  bool blocked() const { return blocked_; }

 private:
  struct job {
    std::uint64_t ticket = 0;
    const std::byte* data = nullptr;
    std::uint64_t bytes = 0, sent = 0;
    bool refused = false;
    time_point until{};         // the reader gives up then
    std::byte* slot = nullptr;  // of device memory: where the device copied the range, and `data`
  };
  struct client {
    incarnation who{};
    endpoint back;
    std::deque<job>
        jobs;  // one chunk each in turn, so that a long read does not hold up a short one
    std::deque<job> to_stage;         // of device memory, waiting for a slot or the device
    std::set<std::uint64_t> staging;  // tickets that the device copies into slots
    std::size_t slots = 0;            // that it holds
  };
  struct stranger {
    hello_header hello;
    std::string address;
  };
  void tell_refused(time_point now);
  void welcome(const stranger& s);
  void dismiss(std::map<std::uint64_t, std::unique_ptr<client>>::iterator entry);
  bool serve(client& c);
  void stage(std::uint64_t id, client& c);
  void staged(std::uint64_t id, job made, device_done&& done);
  void forget(client& c, const std::function<bool(const job&)>& is_over);
  void end(client& c, job& j);  // gives its slot back

  worker& worker_;
  ledger& book_;
  const hello_key key_;
  device_memory* const device_;
  staging leaving_slots_;
  const std::shared_ptr<inbox> ends_;
  random_ids numbers_;         // of clients
  std::uint64_t refused_ = 0;  // hellos, since the log told of them
  refusal refused_last_{};
  time_point tell_next_{}, sweep_next_{};
  bool blocked_ = false;
  std::deque<stranger> strangers_;
  std::map<std::uint64_t, std::unique_ptr<client>> clients_;
  std::deque<std::unique_ptr<client>> leaving_;
};

}  // namespace troupe::transport::ucx
