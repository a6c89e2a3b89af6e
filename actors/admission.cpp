#include "actors/admission.hpp"

#include <algorithm>
#include <cmath>

namespace troupe::actors {
namespace {

constexpr double memory_seconds = 20;   // of the measured rate
constexpr double known_after_busy = 2;  // seconds of service before the rate is believed
constexpr double margin = 2;            // mean deviations of the service time
constexpr std::size_t max_tenants = 1024;

}  // namespace

void admission_queue::pass(time_point now) {
  const double dt = std::max(0.0, seconds(now - last_).count());
  last_ = std::max(last_, now);
  if (serving_.empty() || dt == 0) return;
  const double keep = std::exp(-dt / memory_seconds);
  work_ *= keep, service_ *= keep, deviation_ *= keep;
  busy_ = busy_ * keep + std::min(dt, memory_seconds);
}

double admission_queue::tokens_per_second() const {
  return busy_ < known_after_busy ? 0 : work_ / busy_;
}

// With a margin, as in TCP's retransmission timer (RFC 6298): who is begun and not ended in time costs twice.
double admission_queue::service_seconds(std::uint64_t cost) const {
  return work_ <= 0 ? 0 : (service_ + margin * deviation_) / work_ * static_cast<double>(cost);
}

// A tenant that comes back starts no earlier than those that wait.
double admission_queue::starting_counter(const std::string& tenant) const {
  const auto own = tenants_.find(tenant);
  const double counter = own == tenants_.end() ? 0 : own->second.counter;
  if (own != tenants_.end() && !own->second.queue.empty()) return counter;
  std::optional<double> least;
  for (const auto& [name, t] : tenants_)
    if (!t.queue.empty()) least = std::min(least.value_or(t.counter), t.counter);
  return std::max(counter, least.value_or(counter));
}

admission_queue::seconds admission_queue::predicted_wait(const std::string& tenant,
                                                         std::int32_t priority) const {
  const double rate = tokens_per_second();
  if (rate <= 0) return seconds(0);
  auto better = [&](const tenant_state& t, bool with_equal) {
    double sum = 0;
    for (const auto& [p, cost] : t.queued)
      if (p < priority || (with_equal && p == priority)) sum += cost;
    return sum;
  };
  // Before my request is served my own counter will have grown by what I have queued; each other tenant is served
  // until its counter has reached the same.
  auto own = tenants_.find(tenant);
  const double own_counter = starting_counter(tenant);
  const double own_queued = own == tenants_.end() ? 0 : better(own->second, true);
  double ahead = own_queued;
  for (const auto& [name, t] : tenants_) {
    if (name == tenant) continue;
    const double strictly = better(t, false);
    const double equal = better(t, true) - strictly;
    ahead += strictly + std::clamp(own_counter + own_queued - t.counter, 0.0, equal);
  }
  // The first place is free when one of those that are served ends.
  const double mean =
      serving_cost_ / static_cast<double>(std::max<std::size_t>(1, serving_.size()));
  const double first = service_seconds(1) * mean / static_cast<double>(serving_.size() + 1);
  return seconds(ahead > 0 ? ahead / rate + first : 0);
}

std::chrono::seconds admission_queue::retry_after(seconds wait) const {
  return std::chrono::seconds(std::clamp<long>(std::lround(wait.count()), 1, 600));
}

std::optional<admission_queue::refusal> admission_queue::enter(ticket t, time_point now) {
  pass(now);
  const auto wait = predicted_wait(t.tenant, t.priority);
  const seconds left = t.deadline - now;
  auto text = [&](const std::string& limit) {
    return "about " + std::to_string(std::lround(wait.count())) +
           " s of work wait before this request, " + limit;
  };
  if (wait > options_.max_wait)
    return refusal{{ec::overloaded, text("more than the server lets a request wait")},
                   retry_after(wait - options_.max_wait)};
  if (wait.count() > 0 && wait.count() + service_seconds(t.cost) > left.count())
    return refusal{{ec::overloaded, text("so it would miss its deadline")}, retry_after(wait)};
  if (waiting_.size() >= options_.max_waiting) {
    const bool worse = std::any_of(waiting_.begin(), waiting_.end(), [&](const auto& w) {
      return w.second.first.priority > t.priority;
    });
    if (!worse)
      return refusal{{ec::queue_full, std::to_string(waiting_.size()) + " requests are waiting"},
                     retry_after(wait)};
    displace_worst();
  }
  const double counter = starting_counter(t.tenant);
  auto& mine = tenants_[t.tenant];
  mine.counter = counter;
  const place at{t.priority, ++arrivals_};
  t.entered = now;
  mine.queue.emplace(at, t.id);
  mine.queued[t.priority] += static_cast<double>(t.cost);
  waiting_.emplace(t.id, std::pair(std::move(t), at));
  return {};
}

void admission_queue::displace_worst() {
  auto worst = waiting_.end();
  for (auto it = waiting_.begin(); it != waiting_.end(); ++it)
    if (worst == waiting_.end() || it->second.second > worst->second.second) worst = it;
  drop(worst, "requests of a better priority took its place");
}

void admission_queue::drop(waiting_map::iterator at, const char* why) {
  dropped_.emplace_back(at->first, error{ec::overloaded, why});
  remove_waiting(at);
}

std::vector<std::pair<std::uint64_t, error>> admission_queue::take_dropped() {
  return std::exchange(dropped_, {});
}

void admission_queue::remove_waiting(waiting_map::iterator at) {
  const auto& [t, where] = at->second;
  auto& owner = tenants_.at(t.tenant);
  owner.queue.erase(where);
  if ((owner.queued[t.priority] -= static_cast<double>(t.cost)) <= 0)
    owner.queued.erase(t.priority);
  waiting_.erase(at);
}

admission_queue::tenant_state* admission_queue::next_tenant() {
  tenant_state* best = nullptr;
  for (auto& [name, t] : tenants_) {
    if (t.queue.empty()) continue;
    const auto mine = std::pair(t.queue.begin()->first.priority, t.counter);
    if (best == nullptr || mine < std::pair(best->queue.begin()->first.priority, best->counter))
      best = &t;
  }
  return best;
}

// By its wait, that is: with what it had at first it would have been in time.
bool admission_queue::late(const ticket& t, time_point now) const {
  if (tokens_per_second() <= 0) return now > t.deadline;
  const seconds needed(service_seconds(t.cost));
  return t.deadline - now < needed && t.deadline - t.entered >= needed;
}

std::optional<std::uint64_t> admission_queue::next(time_point now) {
  pass(now);
  tenant_state* best = nullptr;
  waiting_map::iterator at;
  for (;;) {
    best = next_tenant();
    if (best == nullptr) return {};
    at = waiting_.find(best->queue.begin()->second);
    const auto& t = at->second.first;
    if (!late(t, now)) break;
    drop(at, "it waited so long that its answer would have been late");
  }
  const std::uint64_t id = at->first;
  ticket t = at->second.first;
  remove_waiting(at);
  best->counter += static_cast<double>(t.cost);
  ++best->serving;
  serving_cost_ += static_cast<double>(t.cost);
  serving_.emplace(id, served{std::move(t), now});
  return id;
}

bool admission_queue::leave(std::uint64_t id, std::uint64_t used, bool whole, time_point now) {
  pass(now);
  if (auto w = waiting_.find(id); w != waiting_.end()) {
    remove_waiting(w);
    return false;
  }
  auto s = serving_.find(id);
  if (s == serving_.end()) return false;
  const auto& t = s->second.t;
  used = std::min(used, t.cost);
  auto& owner = tenants_.at(t.tenant);
  owner.counter -= static_cast<double>(t.cost - used);
  --owner.serving;
  const double spent = seconds(now - s->second.since).count();
  const auto done = static_cast<double>(whole ? t.cost : used);
  if (work_ > done) deviation_ += std::abs(spent - service_ / work_ * done);
  service_ += spent;
  work_ += done;
  serving_cost_ -= static_cast<double>(t.cost);
  serving_.erase(s);
  forget_idle_tenants();
  return true;
}

void admission_queue::forget_idle_tenants() {
  if (tenants_.size() <= max_tenants) return;
  for (auto it = tenants_.begin(); it != tenants_.end();)
    it = it->second.queue.empty() && it->second.serving == 0 ? tenants_.erase(it) : std::next(it);
}

}  // namespace troupe::actors
