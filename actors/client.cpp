#include "actors/client.hpp"

#include <caf/scoped_actor.hpp>
#include <condition_variable>
#include <mutex>

#include "actors/connect.hpp"
#include "actors/gateway_service.hpp"
#include "actors/interfaces.hpp"
#include "actors/system.hpp"

namespace troupe {
namespace {

using namespace actors;

network_settings with_secret(const std::string& secret) {
  network_settings n;
  n.secret = secret;
  return n;
}

class remote_client : public client {
 public:
  explicit remote_client(const client_options& options)
      : config_(with_secret(options.secret)), system_(config_) {}

  result<void> open(const std::string& host, std::uint16_t port,
                    std::chrono::milliseconds timeout) {
    const std::string where = host + ":" + std::to_string(port);
    auto directory = reach<directory_actor>(host, port, timeout);
    if (!directory)
      return fail(ec::peer_lost,
                  "no Troupe cluster answers at " + where +
                      ": is it running, is this its cluster port, is the secret the same?");
    TROUPE_TRY(auto info, find_gateway(*directory, timeout));
    auto gateway = reach<gateway_actor>(info.host, info.port, timeout);
    if (!gateway)
      return fail(ec::peer_lost, "the cluster's gateway at " + info.host + ":" +
                                     std::to_string(info.port) + " cannot be reached from here");
    service_ = make_gateway_service(system_, *gateway);
    return {};
  }

  generation_service& service() override { return *service_; }
  cluster_status status() const override { return service_->status(); }

 private:
  template <class Handle>
  std::optional<Handle> reach(const std::string& host, std::uint16_t port,
                              std::chrono::milliseconds timeout) {
    caf::scoped_actor self{system_};
    std::optional<Handle> reached;
    connect_to<Handle>(
        self.ptr(), connector_, host, port, timeout, [&](const Handle& h) { reached = h; },
        [](const error&) {});
    return reached;
  }

  // The directory sends membership several times a second; a gateway that has just started appears a little later.
  result<node_info> find_gateway(const directory_actor& directory,
                                 std::chrono::milliseconds timeout) {
    caf::scoped_actor self{system_};
    self->send(directory, subscribe_request{});
    const auto until = std::chrono::steady_clock::now() + timeout;
    std::optional<node_info> found;
    while (!found && std::chrono::steady_clock::now() < until) {
      self->receive(
          [&](const membership& m) {
            for (const auto& n : m.members)
              if (n.info.kind == role::gateway && n.state == node_state::ready) found = n.info;
          },
          caf::after(std::chrono::milliseconds(500)) >> [] {});
    }
    if (!found) return fail(ec::no_worker, "no gateway is in the cluster");
    return *found;
  }

  system_config config_;
  caf::actor_system system_;
  connector_actor connector_ = product_connector(system_);
  std::unique_ptr<generation_service> service_;
};

// Hands a generation to a waiting caller.
class waiting_sink : public generation_sink {
 public:
  explicit waiting_sink(std::function<bool(const engine::token_output&)> on_token)
      : on_token_(std::move(on_token)) {}
  void on_tokens(std::vector<engine::token_output> tokens) override {
    std::lock_guard calling(calling_);
    for (const auto& t : tokens) {
      if (!on_token_ || on_token_(t)) continue;
      on_token_ = nullptr;
      std::lock_guard lock(mutex_);
      cancel_wanted_ = true;
      changed_.notify_one();
    }
  }
  // The caller is not called any more, whatever comes late.
  void forget_caller() {
    std::lock_guard calling(calling_);
    on_token_ = nullptr;
  }
  void on_finished(generation_end end) override {
    std::lock_guard lock(mutex_);
    end_ = std::move(end);
    changed_.notify_one();
  }
  // True: ended. False: the caller should cancel.
  bool wait(std::chrono::steady_clock::time_point until) {
    std::unique_lock lock(mutex_);
    changed_.wait_until(lock, until, [this] { return end_.has_value() || cancel_wanted_; });
    cancel_wanted_ = false;
    return end_.has_value();
  }
  generation_end take() { return std::move(*end_); }

 private:
  std::mutex calling_;  // guards on_token_, and is held while it runs
  std::function<bool(const engine::token_output&)> on_token_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool cancel_wanted_ = false;
  std::optional<generation_end> end_;
};

}  // namespace

result<std::unique_ptr<client>> client::connect(const std::string& host, std::uint16_t port,
                                                const client_options& options) {
  auto c = std::make_unique<remote_client>(options);
  TROUPE_CHECK(c->open(host, port, options.connect_timeout));
  return c;
}

result<generation_end> client::generate(generation what,
                                        std::function<bool(const engine::token_output&)> on_token) {
  // The gateway ends a request at its deadline; these seconds are for an answer that is on its way.
  const auto until = std::chrono::steady_clock::now() + what.timeout + std::chrono::seconds(5);
  auto sink = std::make_shared<waiting_sink>(std::move(on_token));
  const auto id = service().submit(std::move(what), sink);
  while (std::chrono::steady_clock::now() < until) {
    if (sink->wait(until)) return sink->take();
    service().cancel(id);
  }
  sink->forget_caller();
  return fail(ec::deadline_exceeded, "the cluster did not answer in time");
}

}  // namespace troupe
