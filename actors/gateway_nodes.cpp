// The gateway actor's connections to nodes of every other role.
#include <algorithm>

#include "actors/gateway.hpp"
#include "actors/metrics_text.hpp"
#include "actors/wire.hpp"
#include "base/log.hpp"

namespace troupe::actors {
namespace {

constexpr auto metrics_timeout = std::chrono::milliseconds(1000);

}  // namespace

void gateway_state::on_connected(std::uint64_t start, node_table::peer& n) {
  const auto kind = n.info.kind;
  if (kind == role::decode || kind == role::prefill || kind == role::kv_store)
    self->send(context->router, node_reached{start, n.actor});
  for (auto id : std::exchange(n.waiting, {})) dispatch(id);
  route_parked();
  admit();
}

void gateway_state::on_lost(std::uint64_t start, const node_table::peer& lost,
                            const node_table::loss& why) {
  const auto decode = caf::actor_cast<decode_actor>(lost.actor);
  std::vector<std::uint64_t> affected;
  for (auto& [id, q] : requests) {
    if (q.decode != start) continue;
    affected.push_back(id);
    // One that is only slow would go on with it when it wakes up.
    if (decode) self->send(decode, cancel_request{id});
  }
  if (!affected.empty()) {
    spdlog::warn("{} is lost ({}) with {} requests", lost.info.name, why.why, affected.size());
    if (why.ended && !leaves(start)) suspect(affected);
  }
  // All of them first: then the best priority and the oldest get what room there is.
  for (auto id : affected) park(id, {ec::peer_lost, "decode node " + lost.info.name + " was lost"});
  route_parked();
}

decode_actor gateway_state::decoder(std::uint64_t start) const {
  return caf::actor_cast<decode_actor>(nodes.actor_of(start));
}

// Whoever had got tokens from the node had done it no harm so far: the others are suspected first.
void gateway_state::suspect(const std::vector<std::uint64_t>& on_lost_node) {
  auto quiet = [this](std::uint64_t id) {
    const auto& q = requests.at(id);
    return q.message.output.size() == q.output_at_dispatch;
  };
  const bool some_quiet = std::any_of(on_lost_node.begin(), on_lost_node.end(), quiet);
  std::set<hash128_t> suspects;  // a prompt that ran there twice saw one death
  for (auto id : on_lost_node)
    if (!some_quiet || quiet(id)) suspects.insert(poison_list::identity(requests.at(id).message));
  for (const auto& s : suspects) poison.died(s, self->clock().now());
}

bool gateway_state::leaves(std::uint64_t start) const {
  return std::any_of(latest.members.begin(), latest.members.end(), [&](const actors::member& m) {
    return m.info.start == start && m.state == node_state::draining;
  });
}

drain_reply gateway_state::drain_node(const drain_node_request& r) {
  const actors::member* found = nullptr;
  std::uint32_t other_decodes = 0;
  for (const auto& m : latest.members) {
    if (m.info.name == r.node && m.state != node_state::lost) found = &m;
    other_decodes +=
        m.info.name != r.node && m.info.kind == role::decode && m.state == node_state::ready;
  }
  if (found == nullptr) return {ec::not_found, "no node named " + r.node + " is in the cluster"};
  if (found->info.kind == role::gateway)
    return {ec::invalid_argument, r.node + " is a gateway: SIGTERM drains it"};
  if (found->info.kind == role::decode && other_decodes == 0 && !r.force)
    return {ec::invalid_argument,
            r.node + " is the only decode node that is ready: start another one first, or --force"};
  const auto actor = nodes.actor_of(found->info.start);
  if (!actor) return {ec::peer_lost, r.node + " is not connected to this gateway"};
  // Every node's actor takes drain_request, whatever its role.
  using drained = caf::typed_actor<caf::reacts_to<drain_request>>;
  self->send(caf::actor_cast<drained>(actor), r.how);
  spdlog::info("{} is drained{}", r.node, r.how.restart ? " and started again" : "");
  return {};
}

void gateway_state::beat() {
  if (!context->published) return;
  const auto& info = context->info;
  if (!member) {  // membership tells whether it worked; until then every beat asks again
    self->request(context->directory, context->options.route_timeout, join_request{info})
        .then([](const join_reply&) {}, [](const caf::error&) {});
    return;
  }
  heartbeat h{info.name, info.start, draining ? node_state::draining : node_state::ready, {}, {}};
  h.load.running = static_cast<std::uint32_t>(requests.size());
  self->send(context->directory, std::move(h));
}

void gateway_state::on_membership(const membership& m) {
  latest = m;
  member = false;
  for (const auto& n : m.members)
    member = member || (n.info.start == context->info.start && n.state != node_state::lost);
  self->send(context->router, m);
  for (auto& [addr, listener] : subscribers) self->send(listener, m);
  std::map<std::pair<std::string, std::string>, int> workers;
  std::map<std::string, double> heartbeat_ages;
  for (const auto& n : m.members) {
    if (n.info.kind == role::gateway) continue;
    ++workers[{std::string(to_string(n.info.kind)), std::string(to_string(n.state))}];
    heartbeat_ages[n.info.name] = static_cast<double>(n.heartbeat_age_ms) * 1e-3;
  }
  context->metrics->set_workers(workers);
  context->metrics->set_heartbeat_ages(heartbeat_ages);
  nodes.update(m, [](const actors::member& n) { return n.info.kind != role::gateway; });
  for (const auto& n : m.members)
    if (auto* known = nodes.find(n.info.start)) known->ready = n.state == node_state::ready;
  route_parked();  // a decode node may have come
  admit();
}

std::vector<kv_store_actor> gateway_state::stores() const {
  std::vector<kv_store_actor> all;
  for (auto& [start, n] : nodes)
    if (n.actor && n.info.kind == role::kv_store)
      all.push_back(caf::actor_cast<kv_store_actor>(n.actor));
  return all;
}

// How many blocks all stores forgot; those that do not answer in time are left out.
caf::result<std::uint64_t> gateway_state::clear_stores() {
  const auto all = stores();
  auto promise = self->make_response_promise<std::uint64_t>();
  if (all.empty()) promise.deliver(std::uint64_t{0});
  auto outstanding = std::make_shared<std::size_t>(all.size());
  auto sum = std::make_shared<std::uint64_t>(0);
  auto answered = [outstanding, sum, promise](std::uint64_t blocks) mutable {
    *sum += blocks;
    if (--*outstanding == 0) promise.deliver(*sum);
  };
  for (const auto& store : all)
    self->request(store, context->options.route_timeout, clear_request{})
        .then([answered](std::uint64_t blocks) mutable { answered(blocks); },
              [answered](const caf::error&) mutable { answered(0); });
  return promise;
}

// The blocks of all stores together; the hash is that of the longest part that one of them has.
caf::result<pin_reply> gateway_state::pin_in_stores(const pin_request& r) {
  const auto all = stores();
  auto promise = self->make_response_promise<pin_reply>();
  if (all.empty()) promise.deliver(pin_reply{});
  struct gathering {
    std::size_t outstanding = 0;
    std::uint64_t longest = 0;
    pin_reply sum;
  };
  auto gathered = std::make_shared<gathering>(gathering{all.size(), 0, {}});
  auto answered = [gathered, promise](const pin_reply& one) mutable {
    gathered->sum.blocks += one.blocks;
    if (one.blocks > gathered->longest) {
      gathered->longest = one.blocks;
      gathered->sum.hash_high = one.hash_high;
      gathered->sum.hash_low = one.hash_low;
    }
    if (--gathered->outstanding == 0) promise.deliver(gathered->sum);
  };
  for (const auto& store : all)
    self->request(store, context->options.route_timeout, r)
        .then([answered](const pin_reply& one) mutable { answered(one); },
              [answered](const caf::error&) mutable { answered({}); });
  return promise;
}

caf::result<std::string> gateway_state::collect_metrics() {
  struct gathering {
    std::vector<std::string> texts;
    std::size_t outstanding = 0;
  };
  auto all = std::make_shared<gathering>();
  all->texts.push_back(context->metrics->text());
  auto promise = self->make_response_promise<std::string>();
  auto answered = [all, promise](const std::string* text) mutable {
    if (text != nullptr) all->texts.push_back(*text);
    if (--all->outstanding == 0) promise.deliver(merge_metrics(all->texts));
  };
  all->outstanding = nodes.connected();
  if (all->outstanding == 0) promise.deliver(merge_metrics(all->texts));
  for (auto& [start, n] : nodes) {
    if (!n.actor) continue;
    // Every node's actor answers metrics_request, whatever its role.
    using measured = caf::typed_actor<caf::replies_to<metrics_request>::with<std::string>>;
    self->request(caf::actor_cast<measured>(n.actor), metrics_timeout, metrics_request{})
        .then([answered](const std::string& text) mutable { answered(&text); },
              [answered](const caf::error&) mutable { answered(nullptr); });
  }
  return promise;
}

}  // namespace troupe::actors
