// What goes wrong in a schedule, and what a supervisor (systemd, Kubernetes, troupe serve) does about it.
#include <caf/send.hpp>

#include "tests/simulation/hash_runner.hpp"
#include "tests/simulation/world.hpp"

namespace troupe::simulation {
namespace {

constexpr milliseconds notice{1};  // a FIN within a host or a rack

}  // namespace

process_id world::process_of(std::uint32_t index) const {
  if (index == 0) return network_.alive(server_) ? server_ : 0;
  auto at = nodes_.find(index);
  return at == nodes_.end() ? 0 : at->second.process;
}

void world::schedule_faults() {
  for (const auto& f : scenario_.faults)
    events_.at(begin_ + milliseconds(600) + f.at, [this, f] { inflict(f); });
}

void world::end_process(process_id p, bool silent) {
  if (p == 0 || !network_.alive(p)) return;
  trace_.mark(events_.now(), 20, p, silent);
  network_.end(p, silent);
  for (const auto& a : network_.actors_of(p))
    caf::anon_send_exit(caf::actor_cast<caf::actor>(a), caf::exit_reason::kill);
  auto& jobs = scheduler_.jobs;
  for (std::size_t i = 0; i < jobs.size();) {
    auto* actor = dynamic_cast<caf::scheduled_actor*>(jobs[i]);
    if (actor == nullptr || network_.owner_of(actor->id()) != p) {
      ++i;
      continue;
    }
    auto* job = jobs[i];
    jobs.erase(jobs.begin() + static_cast<std::ptrdiff_t>(i));
    jobs.push_front(job);
    scheduler_.run_once();
    i = 0;
  }
  network_.forget(p);
}

void world::end_node(std::uint32_t index, bool silent, milliseconds restart_after) {
  auto& n = nodes_.at(index);
  if (n.process == 0) return;
  sum_node(n);
  if (n.driver != nullptr) n.driver->stop();
  if (n.drafter != nullptr) n.drafter->stop();
  end_process(n.process, silent);
  fabric_->kill(incarnation{n.start}, silent ? std::nullopt : std::optional<nanoseconds>(notice));
  n.runtime.reset();
  n.driver = nullptr;
  n.drafter = nullptr;
  n.device = nullptr;
  n.fabric = nullptr;
  n.process = 0;
  n.previous_start = n.start;
  events_.after(std::max(restart_after, milliseconds(50)), [this, index] {
    if (nodes_.at(index).process == 0) start_node(index);
  });
}

void world::end_server(bool silent, milliseconds restart_after) {
  if (!network_.alive(server_)) return;
  end_process(server_, silent);
  server_actors_ = {};
  events_.after(std::max(restart_after, milliseconds(50)), [this] {
    if (!network_.alive(server_)) start_server();
  });
}

// Drained: the process ends in order, and its actors with it.
void world::leave(std::uint32_t index) {
  auto& n = nodes_.at(index);
  for (const auto& a : n.runtime->actors())
    caf::anon_send_exit(caf::actor_cast<caf::actor>(a), caf::exit_reason::user_shutdown);
  trace_.say(events_.now(), [&] { return scenario_.process_name(index) + " leaves"; });
  events_.after(milliseconds(2), [this, index] { end_node(index, false, milliseconds(300)); });
  n.leaving = false;
}

void world::watch_nodes() {
  for (auto& [index, n] : nodes_) {
    if (!n.runtime || network_.paused(n.process)) continue;
    if (n.runtime->failure()) {
      trace_.say(events_.now(), [&, i = index] { return scenario_.process_name(i) + " gives up"; });
      end_node(index, false, milliseconds(500));
    } else if (n.leaving && n.runtime->drained()) {
      leave(index);
    }
  }
}

void world::cut_all(std::uint32_t index, time_point until) {
  const auto p = process_of(index);
  auto both = [&](process_id other) {
    if (other == 0 || other == p) return;
    network_.cut(p, other, until);
    network_.cut(other, p, until);
  };
  for (std::uint32_t i = 0; i <= scenario_.num_nodes(); ++i) both(process_of(i));
  for (auto& c : clients_)
    if (network_.alive(c.process)) both(c.process);
  if (index == 0) return;
  for (auto& [i, other] : nodes_) {
    if (i == index || other.process == 0) continue;
    const incarnation a{nodes_.at(index).start}, b{other.start};
    for (bool is_cut : {true, false})
      events_.at(is_cut ? events_.now() : until, [this, a, b, is_cut] {
        fabric_->cut(a, b, is_cut);
        fabric_->cut(b, a, is_cut);
      });
  }
}

void world::inflict(const fault& f) {
  const bool of_client = f.kind == fault_kind::kill_client;
  const auto p = of_client ? clients_.at(f.a).process : process_of(f.a);
  if (p == 0 || !network_.alive(p)) return;  // it is down already
  trace_.mark(events_.now(), 21, static_cast<std::uint64_t>(f.kind), f.a);
  trace_.say(events_.now(),
             [&] { return std::string("FAULT: ") + to_string(f.kind) + ' ' + network_.name(p); });
  const auto until = events_.now() + f.duration;
  auto* n = f.a == 0 || of_client ? nullptr : &nodes_.at(f.a);
  switch (f.kind) {
    case fault_kind::kill:
    case fault_kind::vanish: {
      const bool silent = f.kind == fault_kind::vanish;
      return n == nullptr ? end_server(silent, f.duration) : end_node(f.a, silent, f.duration);
    }
    case fault_kind::pause:
      if (n == nullptr) impaired_ += std::min(f.duration, milliseconds(4500));
      network_.pause(p, until);
      if (n != nullptr) fabric_->pause(incarnation{n->start}, until);
      return;
    case fault_kind::cut:
    case fault_kind::cut_both: {
      const auto other = process_of(f.b);
      if (other == 0) return;
      network_.cut(p, other, until);
      if (f.kind == fault_kind::cut_both) network_.cut(other, p, until);
      return;
    }
    case fault_kind::cut_fabric: {
      if (n == nullptr || f.a == f.b || process_of(f.b) == 0) return;
      const incarnation reader{n->start}, owner{nodes_.at(f.b).start};
      fabric_->cut(reader, owner, true);
      return events_.at(until, [this, reader, owner] { fabric_->cut(reader, owner, false); });
    }
    case fault_kind::partition:
      if (n == nullptr) impaired_ += std::min(f.duration, milliseconds(4500));
      return cut_all(f.a, until);
    case fault_kind::weather: {
      auto bad = scenario_.fabric_weather;
      bad.latency_max = scenario_.fabric.latency_max;
      fabric_->faults() = bad;
      return events_.at(until, [this] { fabric_->faults() = scenario_.fabric; });
    }
    case fault_kind::drain:
      if (n == nullptr || !n->runtime) return;
      n->leaving = true;
      return n->runtime->drain();
    case fault_kind::lose_device:
      if (auto* device = n == nullptr ? nullptr : dynamic_cast<hash_runner*>(n->device))
        device->lose();
      return;
    case fault_kind::slow_device:
      if (n != nullptr) n->slow_until = until;
      return;
    case fault_kind::spoil_store:
      if (n != nullptr) spoil_store(*n);
      return;
    case fault_kind::kill_client:
      for (auto& [id, c] : clients_.at(f.a).book->conversations) c->client_gone = !c->over();
      return end_process(p, false);
  }
}

}  // namespace troupe::simulation
