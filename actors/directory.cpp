#include "actors/directory.hpp"

#include "actors/wire.hpp"
#include "base/log.hpp"

namespace troupe::actors {
namespace {

constexpr auto tick_interval = std::chrono::milliseconds(250);

}  // namespace

void directory_state::publish() {
  const auto m = table->snapshot(self->clock().now());
  for (auto& [addr, listener] : subscribers) self->send(listener, m);
}

directory_actor::behavior_type directory_state::make_behavior() {
  self->set_down_handler([this](caf::down_msg& down) {
    subscribers.erase(down.source);
    auto it = joined.find(down.source);
    if (it == joined.end()) return;
    auto [node, start] = it->second;
    joined.erase(it);
    spdlog::warn("directory: connection to {} ended", node);
    table->lost(node, start, "connection ended", self->clock().now());
    publish();
  });
  self->delayed_send(self, tick_interval, caf::tick_atom_v);
  return {
      [this](const join_request& r) -> join_reply {
        auto reply = table->join(r.info, self->clock().now());
        if (reply.code != ec::none) {  // the node tells why, and may ask again soon
          spdlog::debug("directory: refused {}: {}", r.info.name, reply.detail);
          return reply;
        }
        const auto sender = caf::actor_cast<caf::actor_addr>(self->current_sender());
        if (joined.insert_or_assign(sender, std::pair(r.info.name, r.info.start)).second)
          self->monitor(sender);
        if (r.info.kind != role::gateway)
          spdlog::info("{} has joined: {}, {}:{}", r.info.name, to_string(r.info.kind), r.info.host,
                       r.info.port);
        publish();
        return reply;
      },
      [this](const heartbeat& h) {
        // An unknown sender does not see itself in the membership it is subscribed to, and joins again.
        const auto before = table->version();
        table->heard(h, self->clock().now());
        if (table->version() != before) publish();
      },
      [this](const subscribe_request&) {
        const auto sender = caf::actor_cast<caf::actor_addr>(self->current_sender());
        auto listener = caf::actor_cast<membership_listener>(self->current_sender());
        if (subscribers.insert_or_assign(sender, listener).second && joined.count(sender) == 0)
          self->monitor(sender);
        self->send(listener, table->snapshot(self->clock().now()));
      },
      [this](caf::tick_atom) {
        self->delayed_send(self, tick_interval, caf::tick_atom_v);
        const bool changed = table->expire(self->clock().now());
        if (changed || ++ticks % 2 == 0) publish();
      },
  };
}

directory_actor::behavior_type directory(directory_actor::stateful_pointer<directory_state> self,
                                         membership_options options) {
  self->state.table = std::make_unique<membership_table>(std::move(options));
  return self->state.make_behavior();
}

}  // namespace troupe::actors
