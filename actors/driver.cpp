#include "actors/driver.hpp"

#include <algorithm>

namespace troupe::actors {
namespace {

using engine::time_point;

constexpr auto longest_sleep = std::chrono::seconds(1);

auto step(engine::engine& e, time_point now) {
  return e.step(now);
}
auto step(engine::draft_engine& e, time_point) {
  return e.step();
}
time_point next_deadline(const engine::engine& e) {
  return e.next_deadline();
}
time_point next_deadline(const engine::draft_engine&) {
  return time_point::max();
}

}  // namespace

template <class M, class O>
driver<M, O>::driver(std::unique_ptr<M> driven, hooks h, std::size_t queue_limit)
    : driven_(std::move(driven)),
      hooks_(std::move(h)),
      queue_limit_(queue_limit),
      stats_(driven_->stats()) {}

template <class M, class O>
result<void> driver<M, O>::post(command c) {
  {
    std::lock_guard lock(mutex_);
    if (ended_ || stopping_) return fail(ec::draining, "the engine of this node has stopped");
    if (queue_.size() >= queue_limit_)
      return fail(ec::queue_full,
                  "the engine's command queue is full (" + std::to_string(queue_limit_) + ")");
    queue_.push_back(std::move(c));
  }
  wake();
  return {};
}

template <class M, class O>
void driver<M, O>::post_completion(command c) {
  {
    std::lock_guard lock(mutex_);
    if (ended_) return;
    queue_.push_back(std::move(c));
  }
  wake();
}

template <class M, class O>
typename driver<M, O>::statistics driver<M, O>::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

template <class M, class O>
time_point driver<M, O>::sleeps_until(time_point now) const {
  return std::min(next_deadline(*driven_), now + longest_sleep);
}

template <class M, class O>
void driver<M, O>::set_stopping() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake();
}

template <class M, class O>
std::optional<O> driver<M, O>::turn(const std::function<time_point()>& now) {
  std::vector<command> commands;
  {
    std::lock_guard lock(mutex_);
    commands.swap(queue_);
  }
  for (auto& c : commands) c(*driven_, now());
  auto made = step(*driven_, now());
  {
    std::lock_guard lock(mutex_);
    stats_ = driven_->stats();
    ended_ = ended_ || !made;
  }
  if (made) return std::move(*made);
  hooks_.on_failure(made.error());
  return std::nullopt;
}

template class driver<engine::engine, engine::step_report>;
template class driver<engine::draft_engine, std::vector<engine::draft_run>>;

}  // namespace troupe::actors
