// Hit ratios of the KV store's eviction on request traces, beside LRU, S3-FIFO, GDSF and Belady's optimum:
//
//     bench_store_trace TRACES/*.jsonl
//
// A trace is Mooncake's (FAST 2025): one JSON object a line with hash_ids, the chained hashes of a prompt's blocks of
// 512 tokens. A hit is a block of the leading run that is there; a request then inserts what it missed. Capacities are
// shares of the trace's distinct blocks. S3-FIFO: Yang et al., SOSP 2023; GDSF: Cherkasova, HPL-98-69R1, with the time to
// recompute a block as its cost (a part that is the same for all, a part that grows with what is attended to).
#include <algorithm>
#include <cstdio>
#include <deque>
#include <fstream>
#include <list>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "engine/kv_store/block_store.hpp"

namespace {

using block = std::uint32_t;
constexpr std::uint32_t tokens_of_a_block = 512;

struct request {
  std::vector<block> chain;
  std::uint64_t tokens = 0;
};

std::uint64_t number_after(const std::string& line, const char* key) {
  const auto at = line.find(key);
  return at == std::string::npos
             ? 0
             : std::strtoull(line.c_str() + at + std::char_traits<char>::length(key), nullptr, 10);
}

std::vector<request> load(const char* path) {
  std::vector<request> all;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    request r;
    r.tokens = number_after(line, "\"input_length\": ");
    const auto begin = line.find("\"hash_ids\": [");
    if (begin == std::string::npos) continue;
    const char* at = line.c_str() + begin + 13;
    while (*at != '\0' && *at != ']') {
      char* end = nullptr;
      r.chain.push_back(static_cast<block>(std::strtoul(at, &end, 10)));
      at = end;
      while (*at == ',' || *at == ' ') ++at;
    }
    all.push_back(std::move(r));
  }
  return all;
}

// What the policies share: `depth` is the block's place in its chain; calls come deepest first.
class policy {
 public:
  virtual ~policy() = default;
  virtual void begin(const request&) {}
  virtual bool has(const request& r, std::size_t depth) const = 0;
  virtual void hit(const request& r, std::size_t depth) = 0;
  virtual void insert(const request& r, std::size_t depth) = 0;
  virtual bool parents_first() const { return false; }
};

class lru final : public policy {
 public:
  explicit lru(std::size_t room) : room_(room) {}
  bool has(const request& r, std::size_t d) const override { return where_.contains(r.chain[d]); }
  void hit(const request& r, std::size_t d) override {
    order_.splice(order_.begin(), order_, where_.at(r.chain[d]));
  }
  void insert(const request& r, std::size_t d) override {
    if (where_.size() >= room_) {
      where_.erase(order_.back());
      order_.pop_back();
    }
    order_.push_front(r.chain[d]);
    where_[r.chain[d]] = order_.begin();
  }

 private:
  std::size_t room_;
  std::list<block> order_;
  std::unordered_map<block, std::list<block>::iterator> where_;
};

class s3_fifo final : public policy {
 public:
  explicit s3_fifo(std::size_t room)
      : small_room_(std::max<std::size_t>(1, room / 10)), main_room_(room - small_room_) {}
  bool has(const request& r, std::size_t d) const override { return uses_.contains(r.chain[d]); }
  void hit(const request& r, std::size_t d) override {
    int& uses = uses_.at(r.chain[d]);
    uses = std::min(3, uses + 1);
  }
  void insert(const request& r, std::size_t d) override {
    const block b = r.chain[d];
    while (uses_.size() >= small_room_ + main_room_) {
      if (small_.size() >= small_room_ || main_.empty())
        from_small();
      else
        from_main();
    }
    const bool was_here = ghosts_.erase(b) > 0;
    (was_here ? main_ : small_).push_back(b);
    uses_[b] = 0;
  }

 private:
  void from_small() {
    const block b = small_.front();
    small_.pop_front();
    if (uses_.at(b) > 1) {
      uses_[b] = 0;
      main_.push_back(b);
      return;
    }
    uses_.erase(b);
    ghosts_.insert(b);
    ghost_order_.push_back(b);
    while (ghost_order_.size() > main_room_) {
      ghosts_.erase(ghost_order_.front());
      ghost_order_.pop_front();
    }
  }
  void from_main() {
    const block b = main_.front();
    main_.pop_front();
    if (uses_.at(b)-- > 0)
      main_.push_back(b);
    else
      uses_.erase(b);
  }
  std::size_t small_room_, main_room_;
  std::deque<block> small_, main_, ghost_order_;
  std::unordered_map<block, int> uses_;
  std::unordered_set<block> ghosts_;
};

class gdsf final : public policy {
 public:
  explicit gdsf(std::size_t room) : room_(room) {}
  bool has(const request& r, std::size_t d) const override { return entries_.contains(r.chain[d]); }
  void hit(const request& r, std::size_t d) override {
    auto& e = entries_.at(r.chain[d]);
    order_.erase({e.priority, r.chain[d]});
    place(r.chain[d], d, e.uses + 1);
  }
  void insert(const request& r, std::size_t d) override {
    if (entries_.size() >= room_) {
      inflation_ = order_.begin()->first;
      entries_.erase(order_.begin()->second);
      order_.erase(order_.begin());
    }
    place(r.chain[d], d, 1);
  }

 private:
  struct entry {
    double priority = 0;
    double uses = 0;
  };
  void place(block b, std::size_t depth, double uses) {
    const double cost = 1 + 0.004 * static_cast<double>(depth);
    const double priority = inflation_ + uses * cost - 1e-6 * static_cast<double>(depth);
    entries_[b] = {priority, uses};
    order_.insert({priority, b});
  }
  std::size_t room_;
  double inflation_ = 0;
  std::unordered_map<block, entry> entries_;
  std::set<std::pair<double, block>> order_;
};

// The product's own store, through the calls that the actor makes.
class ours final : public policy {
 public:
  explicit ours(std::size_t room)
      : store_({static_cast<std::uint32_t>(room), tokens_of_a_block, {}, {}}) {}
  void begin(const request& r) override {
    hashes_.clear();
    for (block b : r.chain) hashes_.push_back({0, b});
    store_.requested(hashes_, r.tokens, now_);
  }
  bool has(const request& r, std::size_t d) const override {
    return store_.find({0, r.chain[d]}, parent_of(r, d), tokens(r.chain[d])).has_value();
  }
  void hit(const request&, std::size_t) override {}
  void insert(const request& r, std::size_t d) override {
    const auto at = store_.reserve({{0, r.chain[d]},
                                    parent_of(r, d),
                                    tokens(r.chain[d]),
                                    static_cast<std::uint32_t>(d),
                                    r.tokens},
                                   now_);
    if (at) store_.filled(*at, true, now_);
  }
  bool parents_first() const override { return true; }

 private:
  using hash128_t = troupe::hash128_t;
  static hash128_t parent_of(const request& r, std::size_t d) {
    return d == 0 ? hash128_t{1, 0} : hash128_t{0, r.chain[d - 1]};
  }
  static std::vector<troupe::token_id> tokens(block b) {
    return std::vector<troupe::token_id>(tokens_of_a_block, b);
  }
  troupe::engine::block_store store_;
  std::vector<hash128_t> hashes_;
  troupe::engine::time_point now_{};
};

double hit_ratio(const std::vector<request>& trace, policy& p) {
  std::uint64_t hits = 0, all = 0;
  for (const request& r : trace) {
    const std::size_t n = r.chain.size();
    std::size_t run = 0;
    p.begin(r);
    while (run < n && p.has(r, run)) ++run;
    hits += run;
    all += n;
    for (std::size_t d = run; d-- > 0;) p.hit(r, d);
    for (std::size_t i = run; i < n; ++i) {
      const std::size_t d = p.parents_first() ? i : n - 1 - (i - run);
      if (!p.has(r, d))
        p.insert(r, d);
      else
        p.hit(r, d);
    }
  }
  return static_cast<double>(hits) / static_cast<double>(all);
}

// The block whose next use is farthest goes; within a request the deeper one. Never inserts what is not used again.
double belady(const std::vector<request>& trace, std::size_t room) {
  constexpr std::uint64_t depth_range = 1 << 12, never = ~std::uint64_t{0};
  std::vector<std::vector<std::uint64_t>> next(trace.size());
  std::unordered_map<block, std::uint64_t> coming;
  for (std::size_t i = trace.size(); i-- > 0;) {
    for (std::size_t d = 0; d < trace[i].chain.size(); ++d) {
      auto at = coming.find(trace[i].chain[d]);
      next[i].push_back(at == coming.end() ? never : at->second * depth_range + d);
    }
    for (block b : trace[i].chain) coming[b] = i;
  }
  std::set<std::pair<std::uint64_t, block>> order;
  std::unordered_map<block, std::uint64_t> here;
  std::uint64_t hits = 0, all = 0;
  auto erase = [&](block b) {
    order.erase({here.at(b), b});
    here.erase(b);
  };
  for (std::size_t i = 0; i < trace.size(); ++i) {
    const auto& chain = trace[i].chain;
    std::size_t run = 0;
    while (run < chain.size() && here.contains(chain[run])) ++run;
    hits += run;
    all += chain.size();
    for (block b : chain)
      if (here.contains(b)) erase(b);
    for (std::size_t d = 0; d < chain.size(); ++d) {
      if (next[i][d] == never || here.contains(chain[d])) continue;
      if (here.size() >= room) {
        if (order.rbegin()->first <= next[i][d]) continue;
        erase(order.rbegin()->second);
      }
      here[chain[d]] = next[i][d];
      order.insert({next[i][d], chain[d]});
    }
  }
  return static_cast<double>(hits) / static_cast<double>(all);
}

void table(const char* path) {
  const auto trace = load(path);
  std::unordered_set<block> distinct;
  std::uint64_t blocks = 0;
  for (const auto& r : trace) {
    distinct.insert(r.chain.begin(), r.chain.end());
    blocks += r.chain.size();
  }
  std::printf("%s: %zu requests, %llu blocks, %zu distinct\n", path, trace.size(),
              static_cast<unsigned long long>(blocks), distinct.size());
  std::printf(
      "| room | blocks | LRU | S3-FIFO | GDSF | ours | Belady | ours / LRU | ours / Belady |\n");
  std::printf("|---|---|---|---|---|---|---|---|---|\n");
  for (double share : {0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6}) {
    const auto room = static_cast<std::size_t>(share * static_cast<double>(distinct.size()));
    lru a(room);
    s3_fifo b(room);
    gdsf c(room);
    ours d(room);
    const double least = hit_ratio(trace, a), own = hit_ratio(trace, d), best = belady(trace, room);
    std::printf("| %.0f %% | %zu | %.4f | %.4f | %.4f | %.4f | %.4f | %.3f | %.3f |\n", share * 100,
                room, least, hit_ratio(trace, b), hit_ratio(trace, c), own, best, own / least,
                own / best);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: bench_store_trace TRACE.jsonl ...\n");
    return 1;
  }
  for (int i = 1; i < argc; ++i) table(argv[i]);
}
