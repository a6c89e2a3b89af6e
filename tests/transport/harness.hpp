// What the transport's tests share: a recorder of events, and worlds that make fabrics of each kind
// and let time pass, so that one suite runs over all of them.
#pragma once

#include <spdlog/sinks/ringbuffer_sink.h>

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/log.hpp"
#include "transport/fabric.hpp"
#include "transport/sim/fabric.hpp"
#include "transport/ucx/fabric.hpp"

namespace troupe::transport::testing {

using namespace std::chrono_literals;

// Every event a fabric delivered, in order. The sink runs on the fabric's thread.
class recorder {
 public:
  event_sink sink() {
    return [this](event&& e) {
      std::lock_guard lock(mutex_);
      if (auto* done = std::get_if<pull_done>(&e))
        done_.push_back(std::move(*done));
      else if (auto* up = std::get_if<peer_up>(&e))
        up_.push_back(*up);
      else
        down_.push_back(std::get<peer_down>(std::move(e)));
      changed_.notify_all();
    };
  }
  std::vector<pull_done> done() const { return copy(done_); }
  // Those since the last call.
  std::vector<pull_done> take_done() {
    std::lock_guard lock(mutex_);
    return std::exchange(done_, {});
  }
  bool any_done() const {
    std::lock_guard lock(mutex_);
    return !done_.empty();
  }
  std::vector<peer_up> up() const { return copy(up_); }
  std::vector<peer_down> down() const { return copy(down_); }
  // On a machine ten times slower, or as busy, too.
  bool wait(const std::function<bool()>& is_met, std::chrono::milliseconds limit) {
    auto end = clock::now() + std::min<std::chrono::milliseconds>(10 * limit, 120s);
    while (!is_met()) {
      std::unique_lock lock(mutex_);
      if (changed_.wait_until(lock, std::min(end, clock::now() + 5ms)) == std::cv_status::timeout &&
          clock::now() >= end)
        return false;
    }
    return true;
  }

 private:
  template <class T>
  std::vector<T> copy(const std::vector<T>& from) const {
    std::lock_guard lock(mutex_);
    return from;
  }
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<pull_done> done_;
  std::vector<peer_up> up_;
  std::vector<peer_down> down_;
};

// The lines of the log, warnings and worse, while it lives. Make it before the fabrics and let it go after them.
class log_lines {
 public:
  log_lines() {
    heard_->set_level(spdlog::level::warn);
    sinks().push_back(heard_);
  }
  ~log_lines() { std::erase(sinks(), heard_); }
  std::size_t count(std::string_view text) const {
    std::size_t found = 0;
    for (const std::string& line : heard_->last_formatted()) found += line.find(text) != line.npos;
    return found;
  }

 private:
  static std::vector<spdlog::sink_ptr>& sinks() { return spdlog::default_logger()->sinks(); }
  std::shared_ptr<spdlog::sinks::ringbuffer_sink_mt> heard_ =
      std::make_shared<spdlog::sinks::ringbuffer_sink_mt>(256);
};

class world {
 public:
  virtual ~world() = default;
  virtual std::unique_ptr<fabric> make(incarnation self, event_sink sink,
                                       std::size_t max_pulls = 4096) = 0;
  // Lets time pass until the condition holds; false after the limit.
  virtual bool run_until(recorder& of, const std::function<bool()>& is_met,
                         std::chrono::milliseconds limit = 20s) = 0;
  virtual time_point now() const = 0;
  virtual path expected_path() const = 0;
};

class ucx_world final : public world {
 public:
  // patience: with an owner that does not answer.
  explicit ucx_world(path forced, std::chrono::milliseconds patience = 30s)
      : forced_(forced), patience_(patience) {}
  std::unique_ptr<fabric> make(incarnation self, event_sink sink, std::size_t max_pulls) override {
    ucx_options options;
    options.self = self;
    options.force_path = forced_;
    options.max_pulls = max_pulls;
    options.connect_timeout = patience_;
    auto made = make_ucx_fabric(options, std::move(sink));
    return made ? std::move(*made) : nullptr;
  }
  bool run_until(recorder& of, const std::function<bool()>& is_met,
                 std::chrono::milliseconds limit) override {
    return of.wait(is_met, limit);
  }
  time_point now() const override { return clock::now(); }
  path expected_path() const override { return forced_; }

 private:
  path forced_;
  std::chrono::milliseconds patience_;
};

class sim_world final : public world {
 public:
  std::unique_ptr<fabric> make(incarnation self, event_sink sink, std::size_t) override {
    return network->make_fabric(self, std::move(sink));
  }
  bool run_until(recorder&, const std::function<bool()>& is_met,
                 std::chrono::milliseconds limit) override {
    time_point end = network->now() + limit;
    while (!is_met()) {
      auto next = network->next_event_time();
      if (!next || *next > end) return false;
      network->advance(*next);
    }
    return true;
  }
  time_point now() const override { return network->now(); }
  path expected_path() const override { return path::sim; }

  std::unique_ptr<sim_network> network = make_sim_network(1, time_point(1h));
};

// "rdma" forces UCX's own get, over TCP where there is no such device.
inline path path_named(const std::string& name) {
  if (name == "shm") return path::shm;
  return name == "rdma" ? path::rdma : path::tcp;
}

inline std::unique_ptr<world> make_world(const std::string& kind) {
  if (kind == "sim") return std::make_unique<sim_world>();
  return std::make_unique<ucx_world>(path_named(kind.substr(4)));
}

}  // namespace troupe::transport::testing
