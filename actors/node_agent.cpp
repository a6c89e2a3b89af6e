#include "actors/node_agent.hpp"

#include <algorithm>
#include <utility>

#include "actors/connect.hpp"
#include "actors/wire.hpp"
#include "base/log.hpp"

namespace troupe::actors {
namespace {

constexpr auto beat_interval = std::chrono::milliseconds(250);
constexpr auto join_timeout = std::chrono::milliseconds(2000);
constexpr auto connect_timeout = std::chrono::milliseconds(2000);

}  // namespace

void agent_state::connect() {
  if (connecting || refused) return;
  connecting = true;
  if (context->directory) return join(context->directory);
  connect_to<directory_actor>(
      self, context->node->connector, context->directory_host, context->directory_port,
      connect_timeout, [this](const directory_actor& d) { join(d); },
      [this](const error& e) {
        connecting = false;  // the next beat tries again
        // Once an outage: a node may well start before its cluster.
        if (!std::exchange(told_unreachable, true))
          spdlog::warn("the cluster: {} This node goes on trying.", e.detail);
      });
}

void agent_state::join(const directory_actor& to) {
  directory = to;
  self->demonitor(directory.address());  // an attempt before this one watches it already
  self->monitor(directory);
  self->request(directory, join_timeout, join_request{context->node->info})
      .then(
          [this](const join_reply& reply) {
            connecting = false;
            if (reply.code != ec::none) {
              refused =
                  reply.code == ec::identity_mismatch;  // a name that is taken may be free soon
              // Once a reason: it asks again four times a second.
              if (std::exchange(told_refusal, reply.detail) != reply.detail)
                spdlog::error("the cluster refused this node: {}", reply.detail);
              if (refused) context->on_refused(error{reply.code, reply.detail});
              return;
            }
            member = true;
            told_unreachable = false;
            told_refusal.clear();
            spdlog::info("joined the cluster{}", context->directory_host.empty()
                                                     ? std::string()
                                                     : " at " + context->directory_host + ":" +
                                                           std::to_string(context->directory_port));
            joined_at = self->clock().now();
            if (context->node->state == node_state::joining)
              context->node->state = node_state::ready;
            self->send(directory, subscribe_request{});
            beat();
          },
          [this](const caf::error&) { connecting = false; });
}

void agent_state::beat() {
  const auto& n = *context->node;
  const auto load = n.load();
  // The pool takes unused blocks only when no used one is free: so many have been in use.
  if (n.puller) n.puller->used(n.info.num_blocks - std::min(n.info.num_blocks, load.blocks_free));
  self->send(directory, heartbeat{n.info.name, n.info.start, n.state, {}, load});
}

node_agent_actor::behavior_type agent_state::make_behavior() {
  self->set_down_handler([this](caf::down_msg& down) {
    if (!directory || down.source != directory.address()) return;
    if (member)
      spdlog::warn("the directory is gone: this node serves on and joins again when it is back");
    member = connecting = false;
    directory = nullptr;
  });
  self->send(self, caf::tick_atom_v);
  return {
      [this](const membership& m) {
        if (context->role) self->send(context->role, m);
        if (context->store_client) self->send(context->store_client, m);
        if (context->draft_client) self->send(context->draft_client, m);
        const auto& info = context->node->info;
        bool listed = false;
        for (const auto& n : m.members)
          listed = listed || (n.info.name == info.name && n.info.start == info.start &&
                              n.state != node_state::lost);
        // A directory that restarted, or took this node for dead, no longer lists it.
        if (!listed && member && self->clock().now() - joined_at > join_timeout) {
          member = false;
          connect();
        }
      },
      [this](const drain_request&) { context->node->state = node_state::draining; },
      [this](caf::tick_atom) {
        self->delayed_send(self, beat_interval, caf::tick_atom_v);
        if (member) beat();
        if (!member) connect();
        if (context->node->state == node_state::draining && context->node->requests == 0 &&
            !std::exchange(drained, true))
          context->on_drained();
      },
  };
}

node_agent_actor::behavior_type node_agent(node_agent_actor::stateful_pointer<agent_state> self,
                                           std::shared_ptr<agent_context> context) {
  self->state.context = std::move(context);
  return self->state.make_behavior();
}

}  // namespace troupe::actors
