#include "actors/gateway_service.hpp"

#include <atomic>
#include <caf/scoped_actor.hpp>
#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>
#include <map>
#include <mutex>
#include <random>

#include "actors/kv_identity.hpp"
#include "actors/wire.hpp"

namespace troupe::actors {
namespace {

struct status_board {
  mutable std::mutex mutex;
  membership latest;
  std::atomic<std::uint32_t> in_flight{0}, max_model_len{0};
};

// Also of nodes that are away for now, or the door would tell clients to shorten what fits again in a moment.
void note_longest(status_board& board, const membership& m) {
  std::uint32_t longest = 0;
  for (const auto& n : m.members)
    if (n.info.kind == role::decode) longest = std::max(longest, n.info.max_model_len);
  if (longest > 0) board.max_model_len = longest;
}

struct service_state {
  static inline const char* name = "troupe.service";
  explicit service_state(service_actor::pointer selfptr) : self(selfptr) {}
  service_actor::behavior_type make_behavior();
  void finish(std::uint64_t id, generation_end end);
  void lose(std::uint64_t id);  // with the gateway

  service_actor::pointer self;
  gateway_actor gateway;
  std::shared_ptr<status_board> board;
  std::map<std::uint64_t, std::shared_ptr<generation_sink>> sinks;
};

void service_state::finish(std::uint64_t id, generation_end end) {
  auto it = sinks.find(id);
  if (it == sinks.end()) return;
  auto sink = std::move(it->second);
  sinks.erase(it);
  board->in_flight = static_cast<std::uint32_t>(sinks.size());
  sink->on_finished(std::move(end));
}

void service_state::lose(std::uint64_t id) {
  generation_end end;
  end.reason = engine::finish_reason::error;
  end.failure = {ec::peer_lost, "the gateway was lost"};
  finish(id, std::move(end));
}

service_actor::behavior_type service_state::make_behavior() {
  self->monitor(gateway);
  self->set_down_handler([this](caf::down_msg&) {
    gateway = nullptr;
    while (!sinks.empty()) lose(sinks.begin()->first);
  });
  self->send(gateway, subscribe_request{});
  return {
      [this](const submit_generation& s) {
        sinks[s.id] = s.sink;
        board->in_flight = static_cast<std::uint32_t>(sinks.size());
        if (!gateway) return lose(s.id);
        generate_request r;
        r.id = s.id;
        r.prompt = std::move(s.what->prompt);
        r.sampling = to_wire(s.what->sampling);
        r.cache_salt = std::move(s.what->cache_salt);
        r.tenant = std::move(s.what->tenant);
        r.priority = s.what->priority;
        r.timeout_ms =
            static_cast<std::uint64_t>(std::max<std::int64_t>(0, s.what->timeout.count()));
        self->send(gateway, std::move(r));
      },
      [this](const cancel_request& c) {
        if (gateway && sinks.count(c.id) != 0) self->send(gateway, c);
      },
      [this](const generation_accepted& m) {
        if (auto it = sinks.find(m.id); it != sinks.end()) it->second->on_accepted();
      },
      [this](const generation_tokens& m) {
        auto it = sinks.find(m.id);
        if (it == sinks.end()) return;
        std::vector<engine::token_output> tokens;
        for (const auto& t : m.tokens) tokens.push_back(from_wire(t));
        if (m.of_prompt)
          it->second->on_prompt_logprobs(std::move(tokens));
        else
          it->second->on_tokens(std::move(tokens));
      },
      [this](const generation_finished& m) { finish(m.id, from_wire(m)); },
      [this](const membership& m) {
        note_longest(*board, m);
        std::lock_guard lock(board->mutex);
        board->latest = m;
      },
  };
}

service_actor::behavior_type service(service_actor::stateful_pointer<service_state> self,
                                     const gateway_actor& gateway,
                                     std::shared_ptr<status_board> board) {
  self->state.gateway = gateway;
  self->state.board = std::move(board);
  return self->state.make_behavior();
}

node_status status_of(const member& m) {
  node_status s;
  s.name = m.info.name;
  s.role = to_string(m.info.kind);
  s.state = to_string(m.state);
  s.host = m.info.host;
  s.port = m.info.port;
  s.incarnation = m.info.start;
  s.model = m.info.model_name;
  s.device = m.info.device;
  s.kv_identity = m.info.kv_identity;
  s.running = m.load.running + m.load.held;
  s.waiting = m.load.waiting + m.load.waiting_remote;
  s.blocks_total = m.info.num_blocks;
  s.blocks_free = m.load.blocks_free;
  s.blocks_cached = m.load.blocks_cached;
  s.blocks_used = m.load.blocks_writing + m.load.blocks_sealed + m.load.blocks_pulling;
  s.blocks_quarantined = m.load.blocks_quarantined;
  s.prompt_tokens = m.load.prompt_tokens;
  s.generated_tokens = m.load.generated_tokens;
  s.heartbeat_age_seconds = static_cast<double>(m.heartbeat_age_ms) * 1e-3;
  return s;
}

class gateway_service : public generation_service {
 public:
  gateway_service(caf::actor_system& system, const gateway_actor& gateway)
      : system_(system), gateway_(gateway), board_(std::make_shared<status_board>()) {
    actor_ = system.spawn(service, gateway, board_);
    // Ids of several doors meet in the nodes: the upper half is this door's own.
    next_id_ = (std::uint64_t{std::random_device{}()} << 32) | 1;
  }
  ~gateway_service() override { caf::anon_send_exit(actor_, caf::exit_reason::user_shutdown); }

  request_id submit(generation g, std::shared_ptr<generation_sink> sink) override {
    const auto id = next_id_.fetch_add(1);
    caf::anon_send(
        actor_, submit_generation{id, std::make_shared<generation>(std::move(g)), std::move(sink)});
    return request_id{id};
  }

  void cancel(request_id id) override { caf::anon_send(actor_, cancel_request{raw(id)}); }

  cluster_status status() const override {
    cluster_status s;
    s.requests_in_flight = board_->in_flight;
    std::lock_guard lock(board_->mutex);
    for (const auto& m : board_->latest.members) {
      if (m.info.kind == role::decode && m.state == node_state::ready) s.ready = true;
      if (m.state == node_state::joining && m.info.kind != role::gateway)
        s.loading = m.info.name + (m.note.empty() ? " is joining" : ": " + m.note);
      s.nodes.push_back(status_of(m));
    }
    if (!s.ready && s.loading.empty()) s.loading = "waiting for a decode node";
    return s;
  }

  std::uint32_t max_model_len() const override { return board_->max_model_len; }

  result<void> drain_node(const std::string& name, std::chrono::milliseconds timeout, bool restart,
                          bool force) override {
    caf::scoped_actor self{system_};
    drain_node_request r{
        name,
        {static_cast<std::uint64_t>(std::max<std::int64_t>(0, timeout.count())), restart},
        force};
    result<void> outcome;
    self->request(gateway_, std::chrono::seconds(5), std::move(r))
        .receive(
            [&](const drain_reply& reply) {
              if (reply.code != ec::none) outcome = fail(reply.code, reply.detail);
            },
            [&](const caf::error&) {
              outcome = fail(ec::peer_lost, "the gateway did not answer");
            });
    return outcome;
  }

  std::string metrics_text(std::chrono::milliseconds timeout) override {
    caf::scoped_actor self{system_};
    std::string text;
    self->request(gateway_, timeout, metrics_request{})
        .receive([&](const std::string& t) { text = t; }, [](const caf::error&) {});
    return text;
  }

  std::uint64_t clear_stores(std::chrono::milliseconds timeout) override {
    caf::scoped_actor self{system_};
    std::uint64_t blocks = 0;
    self->request(gateway_, timeout, clear_request{})
        .receive([&](std::uint64_t n) { blocks = n; }, [](const caf::error&) {});
    return blocks;
  }

  result<pinned_prefix> pin_prefix(const prefix_pin& what,
                                   std::chrono::milliseconds timeout) override {
    pin_request r{what.tokens, what.cache_salt, 0, 0, static_cast<std::uint64_t>(what.ttl.count()),
                  what.pinned};
    if (what.tokens.empty()) {
      const auto hash = parse_identity(what.hash);
      if (!hash)
        return fail(ec::invalid_argument, "'" + what.hash + "' is not a hash of 32 hex digits");
      r.hash_high = hash->high;
      r.hash_low = hash->low;
    }
    caf::scoped_actor self{system_};
    result<pinned_prefix> done = pinned_prefix{};
    self->request(gateway_, timeout, std::move(r))
        .receive(
            [&](const pin_reply& p) {
              done->blocks = p.blocks;
              if (p.blocks > 0) done->hash = to_hex({p.hash_high, p.hash_low});
            },
            [&](const caf::error&) { done = fail(ec::peer_lost, "the gateway did not answer"); });
    return done;
  }

 private:
  caf::actor_system& system_;
  const gateway_actor gateway_;
  const std::shared_ptr<status_board> board_;
  service_actor actor_;
  std::atomic<std::uint64_t> next_id_;
};

}  // namespace

std::unique_ptr<generation_service> make_gateway_service(caf::actor_system& system,
                                                         const gateway_actor& gateway) {
  return std::make_unique<gateway_service>(system, gateway);
}

}  // namespace troupe::actors
