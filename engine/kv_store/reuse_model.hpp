// How likely a cached prompt is asked for again, learned while it serves: the reuse intervals of prompts, by class.
//
// A class is (turn of the conversation, length of the prompt). For each class the hazard of reuse is kept by age, in
// requests, over buckets half an octave wide: how many came back, by the time that they and all others spent in the
// bucket (a piecewise exponential lifetime). The part of a bucket that those who still wait have passed counts as well:
// without it most seem to come back at the age of the oldest, and a large store would keep them for that. Prompts whose
// blocks were given up are counted too, so that what is learned does not depend on what was kept. From hazards follows
// the Gittins index of waiting on: the best ratio of expected hits to expected time held, over all times at which one
// could stop (Gittins 1979; hit density as in Beckmann et al., "LHD", NSDI 2018, which takes the rate over all the time
// to come). Keeping what has the highest index is what a cache of slots can do best with such knowledge. Indices are
// rounded to powers of 1.6, because differences below that are noise; among equals the least recently used goes first.
//
// Owner and thread: one block_store. The time is the number of requests.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <span>
#include <unordered_map>

#include "base/hash.hpp"

namespace troupe::engine {

using reuse_class = std::uint8_t;

class reuse_model {
 public:
  static constexpr int num_turns = 8, num_lengths = 3, num_classes = num_turns * num_lengths;
  static reuse_class class_of(int turn, std::uint64_t tokens);
  static int turn_of(reuse_class c) { return c / num_lengths + 1; }

  reuse_model();
  // A request for the prompt whose full blocks have these hashes; its class.
  reuse_class requested(std::span<const hash128_t> chain, std::uint64_t tokens);
  std::uint64_t now() const { return now_; }  // requests so far

  // How much it is worth to keep what was last used `age` requests ago; the lowest goes first.
  int rank(reuse_class c, std::uint64_t age) const { return ranks_[c][bucket(age)]; }

 private:
  static constexpr int num_ages = 32;
  static constexpr std::size_t max_watched = 1 << 15;
  using by_age = std::array<double, num_ages>;
  struct watched {
    std::uint64_t since = 0;
    reuse_class kind = 0;
  };

  static int bucket(std::uint64_t age);
  static double share_passed(std::uint64_t age);  // of the bucket that the age is in
  void ended(const watched& w, bool reused);
  // With the time of those that still wait.
  std::array<by_age, num_classes> time_spent() const;
  void learn();

  std::uint64_t now_ = 0, next_learning_ = 64;
  // One prompt's second last block stands for the prompt: its last one often ends in what the next turn changes.
  std::unordered_map<hash128_t, watched> watched_;
  std::deque<std::pair<std::uint64_t, hash128_t>> order_;
  std::array<by_age, num_classes> reused_{};
  std::array<by_age, num_classes> time_spent_{};  // of those that ended, in widths of the bucket
  std::array<std::array<int, num_ages>, num_classes> ranks_{};
};

}  // namespace troupe::engine
