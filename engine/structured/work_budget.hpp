// What following its form may cost one answer, in steps of about 0.1 us: an engine follows the forms of all its requests on
// one thread, and nobody's tokens should wait long for another's form. No more than at_once in one go, and per_token more for
// each token and each mask of tokens. The most that a form within the bounds of its size was seen to take is 93 000 for one
// mask (a class of 20 000 characters; 18 000 strings take 40 000).
//
// Memory is paid for as well, a step at least for each 64 bytes, so what an automaton grows by is bounded too.
//
// Plain values; one thread.
#pragma once

#include <algorithm>
#include <cstddef>

namespace troupe::engine::structured {

class work_budget {
 public:
  static constexpr std::size_t at_once = std::size_t{1} << 18;
  static constexpr std::size_t per_token = std::size_t{1} << 16;
  static constexpr std::size_t bytes_per_step = 64;

  explicit work_budget(std::size_t steps = at_once) : left_(steps) {}

  // False: there is not as much left, and whatever is found from here on may be wrong.
  bool spend(std::size_t steps) {
    exceeded_ = exceeded_ || steps > left_;
    left_ -= std::min(steps, left_);
    return !exceeded_;
  }
  // For one token or mask more. What is not spent does not add up beyond at_once.
  void grant_token() { left_ = std::max(left_, std::min(left_ + per_token, at_once)); }
  std::size_t left() const { return left_; }
  bool exceeded() const { return exceeded_; }

 private:
  std::size_t left_;
  bool exceeded_ = false;
};

}  // namespace troupe::engine::structured
