#include "engine/kv_store/reuse_model.hpp"

#include <algorithm>
#include <cmath>

namespace troupe::engine {
namespace {

constexpr double buckets_per_octave = 3;
constexpr double prior = 8;  // observations that a class's hazard is drawn to the average by
constexpr double forgetting = 0.98;  // of the past, at each learning
constexpr double rank_step = 1.6;

double begin_of(int bucket) {
  return std::exp2(bucket / buckets_per_octave) - 1;
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

void reuse_model::ended(const watched& w, bool reused) {
  const auto last = static_cast<std::size_t>(bucket(now_ - w.since));
  for (std::size_t a = 0; a <= last; ++a) ++at_risk_[w.kind][a];
  if (reused) ++reused_[w.kind][last];
}

void reuse_model::learn() {
  // Those that still wait have survived their age so far.
  auto at_risk = at_risk_;
  for (const auto& [hash, w] : watched_)
    for (std::size_t a = 0, age = static_cast<std::size_t>(bucket(now_ - w.since)); a < age; ++a)
      ++at_risk[w.kind][a];
  by_age average{};
  for (std::size_t a = 0; a < num_ages; ++a) {
    double hits = 0, risk = 0;
    for (std::size_t c = 0; c < num_classes; ++c) {
      hits += reused_[c][a];
      risk += at_risk[c][a];
    }
    average[a] = risk > 0 ? (hits + 0.01) / (risk + 1) : 0;
  }
  for (std::size_t c = 0; c < num_classes; ++c) {
    by_age hazard;
    for (std::size_t a = 0; a < num_ages; ++a)
      hazard[a] = (reused_[c][a] + prior * average[a]) / (at_risk[c][a] + prior);
    for (std::size_t a = 0; a < num_ages; ++a) {
      double survival = 1, hits = 0, time = 0, best = 1e-12;
      for (std::size_t s = a; s < num_ages; ++s) {
        const double width = begin_of(static_cast<int>(s) + 1) - begin_of(static_cast<int>(s));
        hits += survival * hazard[s];
        time += survival * width * (1 - hazard[s] / 2);
        survival *= 1 - hazard[s];
        best = std::max(best, hits / time);
      }
      ranks_[c][a] = static_cast<int>(std::floor(std::log(best) / std::log(rank_step)));
    }
    for (std::size_t a = 0; a < num_ages; ++a) {
      reused_[c][a] *= forgetting;
      at_risk_[c][a] *= forgetting;
    }
  }
}

}  // namespace troupe::engine
