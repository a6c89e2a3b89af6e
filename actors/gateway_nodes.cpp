// The gateway actor's connections to decode and prefill nodes.
#include <algorithm>

#include "actors/connect.hpp"
#include "actors/gateway.hpp"
#include "actors/wire.hpp"
#include "base/log.hpp"

namespace troupe::actors {

void gateway_state::connect_node(const node_info& info) {
  if (nodes.count(info.start) != 0) return;
  nodes[info.start].info = info;
  auto connected = [this, start = info.start](const caf::strong_actor_ptr& actor) {
    auto it = nodes.find(start);
    if (it == nodes.end()) return;  // lost while connecting
    const auto addr = caf::actor_cast<caf::actor_addr>(actor);
    // A node that was started again answers at the address of the one before, and a plan may still name that one.
    if (auto other = node_of.find(addr); other != node_of.end() && other->second != start) {
      const auto ended = it->second.seen ? other->second : start;
      drop_node(ended, "it was started again", false);
      if (ended == start) return;
    }
    it->second.actor = actor;
    node_of[addr] = start;
    self->monitor(addr);
    const auto kind = it->second.info.kind;
    if (kind == role::decode || kind == role::prefill || kind == role::kv_store)
      self->send(context->router, node_reached{start, actor});
    for (auto id : std::exchange(it->second.waiting, {})) dispatch(id);
  };
  auto failed = [this, start = info.start](const error& e) { drop_node(start, e.detail, false); };
  if (auto neighbour = context->neighbours->find(info.start)) return connected(neighbour);
  if (info.kind == role::decode)
    connect_to<decode_actor>(
        self, context->connector, info.host, info.port, context->options.connect_timeout,
        [connected](const decode_actor& a) {
          connected(caf::actor_cast<caf::strong_actor_ptr>(a));
        },
        failed);
  else if (info.kind == role::kv_store)
    connect_to<kv_store_actor>(
        self, context->connector, info.host, info.port, context->options.connect_timeout,
        [connected](const kv_store_actor& a) {
          connected(caf::actor_cast<caf::strong_actor_ptr>(a));
        },
        failed);
  else if (info.kind == role::draft)
    connect_to<draft_actor>(
        self, context->connector, info.host, info.port, context->options.connect_timeout,
        [connected](const draft_actor& a) { connected(caf::actor_cast<caf::strong_actor_ptr>(a)); },
        failed);
  else
    connect_to<prefill_actor>(
        self, context->connector, info.host, info.port, context->options.connect_timeout,
        [connected](const prefill_actor& a) {
          connected(caf::actor_cast<caf::strong_actor_ptr>(a));
        },
        failed);
}

void gateway_state::drop_node(std::uint64_t start, const std::string& why, bool died) {
  auto n = nodes.find(start);
  if (n == nodes.end()) return;
  const node lost = std::move(n->second);
  const std::string& node_name = lost.info.name;
  if (lost.actor) {
    const auto addr = caf::actor_cast<caf::actor_addr>(lost.actor);
    node_of.erase(addr);
    self->demonitor(addr);
  }
  nodes.erase(n);
  std::vector<std::uint64_t> affected;
  for (auto& [id, q] : requests) {
    if (q.decode != start) continue;
    affected.push_back(id);
    // One that is only slow would go on with it when it wakes up.
    if (lost.actor) self->send(caf::actor_cast<decode_actor>(lost.actor), cancel_request{id});
  }
  if (!affected.empty()) {
    spdlog::warn("{} is lost ({}) with {} requests", node_name, why, affected.size());
    if (died) suspect(affected);
  }
  for (auto id : affected) retry(id, {ec::peer_lost, "decode node " + node_name + " was lost"});
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
  if (context->single_process && r.how.restart)
    return {ec::invalid_argument, r.node + " is a part of the server's own process " +
                                      "(--single-process), where nothing starts it again"};
  auto n = nodes.find(found->info.start);
  if (n == nodes.end() || !n->second.actor)
    return {ec::peer_lost, r.node + " is not connected to this gateway"};
  // Every node's actor takes drain_request, whatever its role.
  using drained = caf::typed_actor<caf::reacts_to<drain_request>>;
  self->send(caf::actor_cast<drained>(n->second.actor), r.how);
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
  std::set<std::uint64_t> alive;
  std::map<std::pair<std::string, std::string>, int> workers;
  std::map<std::string, double> heartbeat_ages;
  for (const auto& n : m.members) {
    if (n.info.kind == role::gateway) continue;
    ++workers[{std::string(to_string(n.info.kind)), std::string(to_string(n.state))}];
    heartbeat_ages[n.info.name] = static_cast<double>(n.heartbeat_age_ms) * 1e-3;
    if (n.state == node_state::lost) continue;
    alive.insert(n.info.start);
    if (n.state == node_state::ready) connect_node(n.info);
    if (auto it = nodes.find(n.info.start); it != nodes.end()) it->second.seen = true;
  }
  context->metrics->set_workers(workers);
  context->metrics->set_heartbeat_ages(heartbeat_ages);
  std::vector<std::uint64_t> gone;
  for (auto& [start, n] : nodes)
    if (n.seen && alive.count(start) == 0) gone.push_back(start);
  for (auto start : gone) drop_node(start, "no heartbeat", false);
  reroute_waiting();  // a decode node may have come
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

}  // namespace troupe::actors
