// The nodes that an actor talks to, by incarnation: who they are follows membership, how they are reached is the same for
// every role.
//
//   a member that is ready ─► connecting ─► connected ─► lost: its connection ended, it is no longer a member,
//                                └── cannot be reached ──────┘ it answers as another incarnation, or drop()
//
// One that was lost is connected anew by the next membership that tells of it. A word of an attempt to connect that is
// not the peer's last is not heard.
//
// Owner: the actor whose state it is a member of; only its handlers may call it.
#pragma once

#include <caf/actor_addr.hpp>
#include <caf/actor_cast.hpp>
#include <caf/local_actor.hpp>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "actors/connect.hpp"
#include "actors/interfaces.hpp"
#include "actors/node_services.hpp"

namespace troupe::actors {

// Handle: typed, or caf::strong_actor_ptr where peers are of several roles. Data: what the owner keeps of a peer.
template <class Handle, class Data>
class peer_set {
 public:
  struct peer : Data {
    node_info info;
    Handle actor;       // null while connecting
    bool seen = false;  // in a membership: its absence from the next one means that it left
    std::uint64_t attempt = 0;
  };
  struct loss {
    std::string why;
    bool ended = false;  // its connection did, which of a node that is merely slow lasts longer
  };
  struct settings {
    connector_actor connector;
    std::chrono::milliseconds timeout{};
    std::shared_ptr<const local_nodes> neighbours;
    std::function<result<void>(const node_info&)> link;  // its memory, first; may be empty
    std::function<void(std::uint64_t, peer&)> on_connected;
    std::function<void(std::uint64_t, const peer&, const loss&)>
        on_lost;  // not in the set any more
  };

  peer_set() = default;
  peer_set(const peer_set&) = delete;
  peer_set& operator=(const peer_set&) = delete;

  template <class Self>
  void start(Self* self, settings s) {
    self_ = self;
    settings_ = std::move(s);
    reach_ = [self, &set = settings_](const node_info& n, auto ok, auto failed) {
      if constexpr (std::is_same_v<Handle, caf::strong_actor_ptr>)
        with_handle_of(n.kind, [&](auto typed) {
          connect_to<decltype(typed)>(
              self, set.connector, n.host, n.port, set.timeout,
              [ok](const auto& a) { ok(caf::actor_cast<caf::strong_actor_ptr>(a)); }, failed);
        });
      else
        connect_to<Handle>(self, set.connector, n.host, n.port, set.timeout, ok, failed);
    };
  }

  // `belongs`: whether a member that is not lost is one of these.
  template <class Belongs>
  void update(const membership& m, Belongs belongs) {
    std::set<std::uint64_t> alive;
    for (const auto& n : m.members) {
      if (n.state == node_state::lost || !belongs(n)) continue;
      alive.insert(n.info.start);
      if (n.state == node_state::ready) connect(n.info);
      if (auto* p = find(n.info.start)) p->seen = true;
    }
    std::vector<std::uint64_t> gone;
    for (const auto& [start, p] : peers_)
      if (p.seen && !alive.contains(start)) gone.push_back(start);
    for (const auto start : gone) drop(start, {"it left the cluster"});
  }

  // Nothing for one that is known. Others come from a plan that tells of a member before membership does.
  void connect(const node_info& info) {
    const auto start = info.start;
    if (peers_.contains(start)) return;
    peer& p = peers_[start];
    p.info = info;
    const auto attempt = p.attempt = ++attempts_;
    if (settings_.link)
      if (auto linked = settings_.link(info); !linked)
        return drop(start, {to_string(linked.error())});
    if (auto neighbour = settings_.neighbours->find(start))
      return connected(start, attempt, caf::actor_cast<Handle>(neighbour));
    reach_(
        info, [this, start, attempt](const Handle& a) { connected(start, attempt, a); },
        [this, start, attempt](const error& e) {
          if (find(start, attempt) != nullptr) drop(start, {e.detail});
        });
  }

  void drop(std::uint64_t start, const loss& why) {
    const auto at = peers_.find(start);
    if (at == peers_.end()) return;
    const peer lost = std::move(at->second);
    peers_.erase(at);
    if (lost.actor) {
      const auto address = caf::actor_cast<caf::actor_addr>(lost.actor);
      starts_.erase(address);
      self_->demonitor(address);
    }
    settings_.on_lost(start, lost, why);
  }

  // False: it was none of these.
  bool down(const caf::actor_addr& address) {
    const auto start = start_of(address);
    if (start != 0) drop(start, {"its connection ended", true});
    return start != 0;
  }

  peer* find(std::uint64_t start) {
    const auto at = peers_.find(start);
    return at == peers_.end() ? nullptr : &at->second;
  }
  // Null: it is not connected.
  Handle actor_of(std::uint64_t start) const {
    const auto at = peers_.find(start);
    return at == peers_.end() ? Handle() : at->second.actor;
  }
  std::uint64_t start_of(const caf::actor_addr& address) const {  // 0: it is none of these
    const auto at = starts_.find(address);
    return at == starts_.end() ? 0 : at->second;
  }
  peer& at(std::uint64_t start) { return peers_.at(start); }
  const peer& at(std::uint64_t start) const { return peers_.at(start); }
  std::size_t size() const { return peers_.size(); }
  std::size_t connected() const { return starts_.size(); }
  auto begin() { return peers_.begin(); }
  auto end() { return peers_.end(); }
  auto begin() const { return peers_.begin(); }
  auto end() const { return peers_.end(); }

 private:
  using reached = std::function<void(const Handle&)>;
  using unreachable = std::function<void(const error&)>;

  peer* find(std::uint64_t start, std::uint64_t attempt) {
    peer* p = find(start);
    return p != nullptr && p->attempt == attempt ? p : nullptr;
  }

  void connected(std::uint64_t start, std::uint64_t attempt, const Handle& actor) {
    if (find(start, attempt) == nullptr) return;  // lost while connecting
    const auto address = caf::actor_cast<caf::actor_addr>(actor);
    // A node that was started again answers at the address of the one before, and a plan may still name that one.
    if (const auto other = start_of(address); other != 0 && other != start)
      drop(at(start).seen ? other : start, {"it was started again"});
    peer* p = find(start, attempt);
    if (p == nullptr) return;
    p->actor = actor;
    starts_[address] = start;
    self_->monitor(address);
    settings_.on_connected(start, *p);
  }

  caf::local_actor* self_ = nullptr;
  settings settings_;
  std::function<void(const node_info&, reached, unreachable)> reach_;
  std::map<std::uint64_t, peer> peers_;
  std::map<caf::actor_addr, std::uint64_t> starts_;  // of those that are connected
  std::uint64_t attempts_ = 0;
};

}  // namespace troupe::actors
