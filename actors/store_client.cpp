#include "actors/store_client.hpp"

#include <algorithm>

#include "base/log.hpp"
#include "engine/prefix_index.hpp"

namespace troupe::actors {
namespace {

using std::chrono::milliseconds;

// Until the engine has measured itself.
constexpr double default_prefill_speed = 500;  // tokens a second
// A range is small until the link is known, so that a slow one costs little.
constexpr std::uint32_t first_range = 4, later_range = 32;
constexpr auto measurement_lasts = std::chrono::seconds(30);
constexpr auto shortest_wait = milliseconds(30), longest_wait = milliseconds(1000);
constexpr std::size_t stores_asked_limit = 2;  // for one prompt
constexpr auto first_penalty = milliseconds(500), longest_penalty = milliseconds(30'000);

double seconds(std::chrono::nanoseconds t) {
  return std::chrono::duration<double>(t).count();
}

}  // namespace

result<void> add_by_store(const std::shared_ptr<node_services>& node, engine::engine& engine,
                          engine::generation_request request, engine::time_point now) {
  const std::uint32_t block = node->info.block_tokens;
  const auto context = request.prompt.size() + request.output.size();
  const bool scores_prompt = request.sampling.prompt_logprobs && request.output.empty();
  // The block of the last token is computed here in any case.
  const auto blocks = static_cast<std::uint32_t>((context - std::min<std::size_t>(context, 1)) /
                                                 std::max(block, 1u));
  if (!node->store_ready || blocks == 0 || scores_prompt)
    return engine.add(std::move(request), now);
  auto tokens = std::make_shared<std::vector<token_id>>(request.prompt);
  tokens->insert(tokens->end(), request.output.begin(), request.output.end());
  tokens->resize(std::size_t{blocks} * block);
  prefix_wanted wanted{request.id, request.try_number, tokens, request.cache_salt, 0};
  request.from_store = true;
  auto reserved = engine.add_remote(request, now);
  if (!reserved) {  // blocks are short: it waits as any other
    request.from_store = false;
    return engine.add(std::move(request), now);
  }
  wanted.first_block = reserved->first_block;
  if (wanted.first_block >= blocks)
    engine.remote_failed(request.id, request.try_number, now);  // all of it is here
  else
    caf::anon_send(caf::actor_cast<store_client_actor>(node->store_client), std::move(wanted));
  return {};
}

double store_client_state::compute_seconds(std::uint64_t tokens) const {
  const double measured = node->loop->stats().prefill_tokens_per_second;
  return static_cast<double>(tokens) / (measured > 0 ? measured : default_prefill_speed);
}

std::uint64_t store_client_state::block_bytes() const {
  return node->puller->block_bytes();
}

void store_client_state::look_up(const prefix_wanted& w) {
  const key id{raw(w.id), w.try_number};
  fetch f;
  f.try_number = w.try_number;
  f.tokens = w.tokens;
  f.root = engine::root_hash(kv_identity, w.cache_salt);
  f.first = engine::chain_hash(f.root, std::span(*w.tokens).first(node->info.block_tokens));
  f.next_block = w.first_block;
  f.started = self->clock().now();
  if (!fetches.emplace(id, std::move(f)).second) return;
  if (!ask(id)) end(id, "no_store");
}

// Of the stores that should have the prompt, the one to read from now.
bool store_client_state::ask(key id) {
  fetch& f = fetches.at(id);
  const auto now = self->clock().now();
  auto order = order_of(f.first);
  const auto copies_now = copies_of(f.first);
  order.resize(std::min<std::size_t>(order.size(), copies_now));
  std::erase_if(order, [&](const store_place& s) {
    return now < stores.at(s.start).quiet_until ||
           std::find(f.asked.begin(), f.asked.end(), s.start) != f.asked.end();
  });
  if (order.empty() || f.asked.size() >= stores_asked_limit) return false;
  const auto chosen = store_to_read(order, copies_now, turn++).start;
  store& s = stores.at(chosen);
  ++s.fetches;
  f.store = chosen;
  f.asked.push_back(chosen);
  f.found.clear();
  f.all_found = f.answered = false;
  const auto to_compute = f.tokens->size() - std::size_t{f.next_block} * node->info.block_tokens;
  f.predicted_seconds = compute_seconds(to_compute);
  // A silent store must not cost more than the computation that it could save.
  const auto pays = milliseconds(static_cast<long>(f.predicted_seconds * 500));
  f.deadline =
      now + (patient() ? patience() : std::clamp<milliseconds>(pays, shortest_wait, longest_wait));
  watch();
  self->send(s.actor, store_lookup{id.first, id.second, node->info.kv_identity, f.root.high,
                                   f.root.low, *f.tokens, f.next_block});
  return true;
}

void store_client_state::on_found(const store_found& m) {
  const key id{m.id, m.try_number};
  auto it = fetches.find(id);
  if (it == fetches.end()) return;
  fetch& f = it->second;
  if (self->current_sender() != nullptr) {  // an answer of a store that was given up
    const auto from = stores.start_of(caf::actor_cast<caf::actor_addr>(self->current_sender()));
    if (from != f.store) return;
  }
  if (auto* s = stores.find(f.store)) s->penalty = milliseconds(0);
  learn_copies(f.first, m.copies);
  if (!std::exchange(f.answered, true))
    node->metrics->store_lookup_seconds.Observe(seconds(self->clock().now() - f.started));
  f.all_found = f.all_found || m.last;
  if (m.first_block == f.next_block + f.found.size())
    f.found.insert(f.found.end(), m.blocks.begin(), m.blocks.end());
  f.deadline = self->clock().now() + std::max<milliseconds>(longest_wait, patience());
  if (!f.pulling) pull_next(id);
}

void store_client_state::pull_next(key id) {
  fetch& f = fetches.at(id);
  auto* s = stores.find(f.store);
  if (s == nullptr) return end(id, "store_lost");
  // A link that was slow is tried again, seldom: nothing else would tell that it is fast now.
  if (self->clock().now() - s->measured > measurement_lasts) s->bytes_per_second = 0;
  if (f.found.empty()) {
    if (f.all_found) end(id, f.blocks_fetched > 0 ? "fetched" : "miss");
    return;  // more is being read from the disk
  }
  const double speed = s->bytes_per_second;
  const auto most = speed == 0 ? first_range : later_range;
  const auto n = std::min<std::uint32_t>(most, static_cast<std::uint32_t>(f.found.size()));
  const double computing = compute_seconds(std::uint64_t{n} * node->info.block_tokens);
  const double fetching = speed == 0 ? 0 : static_cast<double>(n * block_bytes()) / speed;
  if (fetching > computing && !patient()) return end(id, "computing_is_faster");
  // Slower than computing would be: given up, and remembered in the link's speed.
  const auto pays = milliseconds(static_cast<long>(computing * 2000));
  const auto limit = patient() ? patience() : std::max<milliseconds>(shortest_wait, pays);
  f.range = n;
  f.pulling = true;
  f.deadline = self->clock().now() + limit + longest_wait;

  std::vector<engine::block_descriptor> blocks;
  for (std::uint32_t i = 0; i < n; ++i)
    blocks.push_back({f.found[i].block, f.found[i].generation, f.found[i].valid_tokens});
  auto start = [services = node, me = store_client_actor(self), id, blocks, limit,
                peer = incarnation{f.store},
                first = f.next_block](engine::engine& e, engine::time_point now) {
    store_pulled done{id.first, id.second, {}, 0, {}, error{ec::not_found, "the request is gone"}};
    auto plan = e.start_pull(request_id{id.first}, id.second, first, blocks);
    if (plan.pieces.empty()) return caf::anon_send(me, done);
    const auto pull = plan.id;
    services->puller->pull(peer, std::move(plan), now + limit, [=](pull_outcome&& out) {
      services->metrics->on_pull(out);
      services->loop->post_completion([pull, ok = out.ok, bytes = out.bytes, busy = out.duration](
                                          engine::engine& eng, engine::time_point t) {
        eng.pull_ended(pull, ok, bytes, busy, t);
      });
      caf::anon_send(
          me, store_pulled{id.first, id.second, out.ok, out.bytes, out.duration, out.failure});
    });
  };
  if (!node->loop->post(std::move(start))) end(id, "engine_busy");
}

void store_client_state::on_pulled(const store_pulled& m) {
  const key id{m.id, m.try_number};
  auto it = fetches.find(id);
  if (it == fetches.end()) return;
  fetch& f = it->second;
  f.pulling = false;
  auto* s = stores.find(f.store);
  if (s != nullptr && m.duration.count() > 0) {
    // A pull that failed moved less than it was asked for: its speed is at most this.
    const double speed = static_cast<double>(f.range * block_bytes()) / seconds(m.duration);
    auto& known = s->bytes_per_second;
    const bool too_slow = m.failure.code == ec::deadline_exceeded;
    s->measured = self->clock().now();
    if (m.failure.code == ec::none) known = known == 0 ? speed : 0.7 * known + 0.3 * speed;
    if (too_slow) known = known == 0 ? speed : std::min(known, speed);
  }
  if (m.failure.code != ec::none || m.ok.empty()) {
    if (!m.ok.empty())
      spdlog::info("request {:x}: the rest of the prefix is computed here: {}", m.id,
                   to_string(m.failure));
    f.computing = true;
    return end(id, m.failure.code == ec::fence_mismatch      ? "fence_mismatch"
                   : m.failure.code == ec::deadline_exceeded ? "too_slow"
                   : m.ok.empty()                            ? "request_gone"
                                                             : "store_lost");
  }
  for (std::uint32_t i = 0; i < f.range; ++i) f.found.pop_front();
  f.next_block += f.range;
  f.blocks_fetched += f.range;
  f.deadline = self->clock().now() + std::max<milliseconds>(longest_wait, patience());
  pull_next(id);
}

void store_client_state::leave_store(fetch& f, const key& id, std::string_view outcome) {
  auto* s = stores.find(f.store);
  if (s == nullptr || !s->actor) return;
  s->fetches -= std::min(s->fetches, 1u);
  self->send(s->actor, release_request{id.first, id.second});
  if (outcome != "silent") return;
  auto& penalty = s->penalty;
  penalty = std::clamp(penalty * 2, milliseconds(first_penalty), milliseconds(longest_penalty));
  s->quiet_until = self->clock().now() + penalty;
  spdlog::warn("store {} does not answer: not asked for {} ms", s->info.name, penalty.count());
}

// Another store may have it; else the engine computes what has not come.
void store_client_state::end(key id, const char* outcome) {
  auto it = fetches.find(id);
  const std::string_view why = outcome;
  if (it->second.store != 0) leave_store(it->second, id, why);
  const bool other_may_have = why == "store_lost" || why == "silent" || why == "miss";
  if (other_may_have && !it->second.computing && ask(id)) return;
  const fetch f = std::move(it->second);
  fetches.erase(it);
  const double took = seconds(self->clock().now() - f.started);
  node->metrics->on_store_fetch(
      outcome, std::uint64_t{f.blocks_fetched} * node->info.block_tokens, took,
      compute_seconds(std::uint64_t{f.blocks_fetched} * node->info.block_tokens) - took);
  node->loop->post_completion([id](engine::engine& e, engine::time_point now) {
    e.remote_failed(request_id{id.first}, id.second, now);
  });
}

store_client_actor::behavior_type store_client_state::make_behavior() {
  self->set_down_handler([this](caf::down_msg& down) { stores.down(down.source); });
  stores.start(self, {node->connector, node->options.connect_timeout, node->neighbours,
                      [this](const node_info& n) {
                        return node->puller->connect(incarnation{n.start}, n.transport_address);
                      },
                      [this](std::uint64_t, store&) { update_ready(); },
                      [this](std::uint64_t start, const store& lost, const store_table::loss& why) {
                        on_lost(start, lost, why.why);
                      }});
  return {
      [this](const membership& m) { on_membership(m); },
      [this](const store_offer_done& m) {
        for (auto& [start, s] : stores)
          if (s.offer_number == m.number) {
            s.offer_number = 0;
            send_offer(s);
          }
      },
      [this](const store_found& m) { on_found(m); },
      [this](const prefix_wanted& w) { look_up(w); },
      [this](const engine_happened& h) { offer(*h.events); },
      [this](const store_pulled& m) { on_pulled(m); },
      [this](const link_lost& l) { stores.drop(l.start, {to_string(l.why)}); },
      [this](caf::tick_atom) { tick(); },
  };
}

store_client_actor::behavior_type store_client(
    store_client_actor::stateful_pointer<store_client_state> self,
    std::shared_ptr<node_services> node, hash128_t kv_identity) {
  self->state.node = std::move(node);
  self->state.kv_identity = kv_identity;
  return self->state.make_behavior();
}

}  // namespace troupe::actors
