#include "engine/kv_store/reuse_model.hpp"

#include <algorithm>
#include <cmath>

namespace troupe::engine {
namespace {

constexpr double buckets_per_octave = 2;
// Observations by which a class's hazard is drawn to the average, and that to the average at the age before.
constexpr double prior = 8;
constexpr double forgetting = 0.98;  // of the past, at each learning
constexpr double rank_step = 1.6;

double begin_of(int bucket) {
  return std::exp2(bucket / buckets_per_octave) - 1;
}

double width_of(int bucket) {
  return begin_of(bucket + 1) - begin_of(bucket);
}

}  // namespace

reuse_class reuse_model::class_of(int turn, std::uint64_t tokens) {
  const int length = tokens < 2048 ? 0 : tokens < 8192 ? 1 : 2;
  return static_cast<reuse_class>((std::clamp(turn, 1, num_turns) - 1) * num_lengths + length);
}

int reuse_model::bucket(std::uint64_t age) {
  return std::min(num_ages - 1,
                  static_cast<int>(buckets_per_octave * std::log2(static_cast<double>(age) + 1)));
}

// Until something is learned: least recently used.
reuse_model::reuse_model() {
  for (auto& ranks : ranks_)
    for (int a = 0; a < num_ages; ++a) ranks[static_cast<std::size_t>(a)] = -a;
}

reuse_class reuse_model::requested(std::span<const hash128_t> chain, std::uint64_t tokens) {
  ++now_;
  int turn = 1;
  for (const auto& hash : chain) {
    auto at = watched_.find(hash);
    if (at == watched_.end()) continue;
    // The system prompt, which everybody shares, makes nobody's second turn.
    if (&hash != &chain.front()) turn = turn_of(at->second.kind) + 1;
    ended(at->second, true);
    watched_.erase(at);
  }
  const reuse_class kind = class_of(turn, tokens);
  if (!chain.empty()) {
    const auto& mark = chain[chain.size() > 1 ? chain.size() - 2 : 0];
    watched_[mark] = {now_, kind};
    order_.emplace_back(now_, mark);
  }
  while (order_.size() > max_watched) {
    auto at = watched_.find(order_.front().second);
    if (at != watched_.end() && at->second.since == order_.front().first) {
      ended(at->second, false);
      watched_.erase(at);
    }
    order_.pop_front();
  }
  if (now_ >= next_learning_) {
    learn();
    next_learning_ = now_ + std::clamp<std::uint64_t>(now_ / 4, 64, 256);
  }
  return kind;
}

double reuse_model::share_passed(std::uint64_t age) {
  const int b = bucket(age);
  return std::min(1.0, (static_cast<double>(age) - begin_of(b)) / width_of(b));
}

void reuse_model::ended(const watched& w, bool reused) {
  const std::uint64_t age = now_ - w.since;
  const auto last = static_cast<std::size_t>(bucket(age));
  for (std::size_t a = 0; a < last; ++a) ++time_spent_[w.kind][a];
  time_spent_[w.kind][last] += share_passed(age);
  if (reused) ++reused_[w.kind][last];
}

std::array<reuse_model::by_age, reuse_model::num_classes> reuse_model::time_spent() const {
  auto spent = time_spent_;
  for (const auto& [hash, w] : watched_) {
    const std::uint64_t age = now_ - w.since;
    const auto last = static_cast<std::size_t>(bucket(age));
    for (std::size_t a = 0; a < last; ++a) ++spent[w.kind][a];
    spent[w.kind][last] += share_passed(age);
  }
  return spent;
}

void reuse_model::learn() {
  const auto spent = time_spent();
  by_age average{};
  for (std::size_t a = 0; a < num_ages; ++a) {
    double hits = prior * (a == 0 ? 0.01 : average[a - 1]), time = prior;
    for (std::size_t c = 0; c < num_classes; ++c) {
      hits += reused_[c][a];
      time += spent[c][a];
    }
    average[a] = hits / time;
  }
  for (std::size_t c = 0; c < num_classes; ++c) {
    by_age hazard;
    for (std::size_t a = 0; a < num_ages; ++a)
      hazard[a] = 1 - std::exp(-(reused_[c][a] + prior * average[a]) / (spent[c][a] + prior));
    for (std::size_t a = 0; a < num_ages; ++a) {
      double survival = 1, hits = 0, time = 0, best = 1e-12;
      for (std::size_t s = a; s < num_ages; ++s) {
        const double width = width_of(static_cast<int>(s));
        hits += survival * hazard[s];
        time += survival * width * (1 - hazard[s] / 2);
        survival *= 1 - hazard[s];
        best = std::max(best, hits / time);
      }
      ranks_[c][a] = static_cast<int>(std::floor(std::log(best) / std::log(rank_step)));
    }
    for (std::size_t a = 0; a < num_ages; ++a) {
      reused_[c][a] *= forgetting;
      time_spent_[c][a] *= forgetting;
    }
  }
}

}  // namespace troupe::engine
