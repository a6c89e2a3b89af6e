#include "actors/route_policy.hpp"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "actors/kv_identity.hpp"
#include "engine/prefix_index.hpp"
#include "engine/prefix_journal.hpp"

namespace troupe::actors {
namespace {

// Until a node has measured itself.
constexpr double default_prefill_speed = 500;                // tokens a second
constexpr double default_link = 1e9;                         // bytes a second
constexpr double kv_bytes_per_token_guess = 64 * 1024;       // where a node does not tell
constexpr double asking_a_store = 0.002;                     // seconds
constexpr auto measurements_age = std::chrono::seconds(10);  // to a third of their weight

// How much a decode node with more requests must be faster: its steps get longer for all of them.
constexpr double steps_a_request = 2, shortest_step = 0.0025, longest_step = 0.050;
constexpr double tie_share = 0.1, tie_seconds = 0.010;  // predictions are not better than that
constexpr double most_of_share = 2;

double seconds(std::chrono::nanoseconds t) {
  return std::chrono::duration<double>(t).count();
}

double token_bytes(const member& m) {
  return m.info.block_bytes > 0 && m.info.block_tokens > 0
             ? static_cast<double>(m.info.block_bytes) / m.info.block_tokens
             : kv_bytes_per_token_guess;
}

double link_of(const member& m) {
  return m.load.pull_bytes_per_second > 0 ? static_cast<double>(m.load.pull_bytes_per_second)
                                          : default_link;
}

bool computes(const member& m) {
  return m.info.kind == role::decode || m.info.kind == role::prefill;
}

bool excluded(const route_request& r, const member& m) {
  return std::find(r.excluded.begin(), r.excluded.end(), m.info.start) != r.excluded.end();
}

bool holds(const member& m, std::uint64_t tokens) {
  return m.info.max_model_len == 0 || tokens <= m.info.max_model_len;
}

std::string milliseconds(double s) {
  return std::to_string(static_cast<long>(s * 1000 + 0.5)) + " ms";
}

// Of the blocks that a reader could take from a cache: the last token is always computed.
std::vector<std::uint64_t> keys_of(const route_request& r, const member& m) {
  std::vector<std::uint64_t> keys;
  const std::uint32_t size = m.info.block_tokens;
  const auto identity = parse_identity(m.info.kv_identity);
  if (!identity || size == 0 || r.prompt.empty()) return keys;
  const std::span<const std::uint32_t> tokens(r.prompt);
  hash128_t h = engine::root_hash(*identity, r.cache_salt);
  for (std::size_t at = 0; at + size < tokens.size(); at += size) {
    h = engine::chain_hash(h, tokens.subspan(at, size));
    keys.push_back(engine::prefix_journal::key(h));
  }
  return keys;
}

}  // namespace

void route_policy::update(const membership& m, time_point now) {
  std::vector<candidate> next;
  std::map<std::uint64_t, measurement> measured;
  std::map<std::uint64_t, std::size_t> place;
  std::map<std::string_view, std::size_t> identity;
  identities_.clear();
  longest_lost_ = 0;
  for (const auto& node : m.members) {
    if (node.info.kind == role::gateway || node.info.kind == role::draft) continue;
    if (node.state == node_state::lost) {
      if (node.info.kind == role::decode)
        longest_lost_ = std::max(longest_lost_, node.info.max_model_len);
      continue;
    }
    prefixes_.add_node(node.info.start);
    const auto [at, fresh] = identity.try_emplace(node.info.kv_identity, identity.size());
    if (fresh) identities_.push_back(node.info.kv_identity);
    place[node.info.start] = next.size();
    next.push_back({node, 0, 0, 0, at->second, 0});
    if (!computes(node)) continue;
    auto& own = measured[node.info.start];
    if (auto before = measured_.find(node.info.start); before != measured_.end())
      own = before->second;
    const auto speed = static_cast<double>(node.load.prefill_tokens_per_second);
    if (speed != own.speed) own = {speed, std::max(speed, own.best), now};
  }
  for (const auto& [start, at] : place_)
    if (!place.contains(start)) prefixes_.remove_node(start);
  nodes_ = std::move(next);
  place_ = std::move(place);
  measured_ = std::move(measured);
  prefixes_.expire(now);
  set_speeds(now);
}

// What a node's last measurement is worth now: as it gets old, what its peers say counts more, those of its own kind if
// there are any, and the fresher ones more.
void route_policy::set_speeds(time_point now) {
  struct sum {
    double speeds = 0, weights = 0;
    void add(double speed, double weight) {
      speeds += weight * speed;
      weights += weight;
    }
    double mean_without(double speed, double weight) const {  // 0: there is nobody else
      const double rest = weights - weight;
      return rest > 1e-7 ? std::max(0.0, (speeds - weight * speed) / rest) : 0;
    }
  };
  auto weight = [now](const measurement& x) {
    return x.speed > 0 ? std::exp(-seconds(now - x.taken) / seconds(measurements_age)) + 1e-4 : 0;
  };
  sum all;
  std::map<std::string_view, sum> kinds;
  for (const auto& c : nodes_) {
    const auto own = measured_.find(c.m.info.start);
    if (own == measured_.end()) continue;
    all.add(own->second.speed, weight(own->second));
    kinds[c.m.info.device].add(own->second.speed, weight(own->second));
  }
  for (auto& c : nodes_) {
    const auto at = measured_.find(c.m.info.start);
    if (at == measured_.end()) continue;
    const measurement& own = at->second;
    const double w = weight(own);
    double prior = kinds[c.m.info.device].mean_without(own.speed, w);
    if (prior == 0) prior = std::max(own.best, all.mean_without(own.speed, w));
    if (prior == 0) prior = default_prefill_speed;
    const double trust = std::min(w, 1.0);
    c.speed = own.speed > 0 ? trust * own.speed + (1 - trust) * prior : prior;
  }
}

// How much of the prompt each node has, into its candidate.
route_policy::known_prefix route_policy::look_up(const route_request& r) {
  known_prefix known;
  for (auto& c : nodes_) c.cached = 0;
  if (r.prompt.empty()) return known;
  known.keys.resize(identities_.size());
  std::vector<bool> done(identities_.size());
  for (const auto& c : nodes_) {
    if (done[c.identity]) continue;
    done[c.identity] = true;
    known.keys[c.identity] = keys_of(r, c.m);
    for (const auto& [start, depth] : prefixes_.depths(known.keys[c.identity])) {
      const auto at = place_.find(start);
      if (at == place_.end() || nodes_[at->second].identity != c.identity) continue;
      candidate& holder = nodes_[at->second];
      holder.cached = depth * holder.m.info.block_tokens;
      if (holder.m.info.kind == role::kv_store && holder.m.state == node_state::ready)
        known.in_store = std::max(known.in_store, holder.cached);
    }
  }
  return known;
}

route_policy::reading route_policy::read_at(const candidate& c, const route_request& r,
                                            const known_prefix& known) const {
  const double ahead = static_cast<double>(c.m.load.waiting_tokens + c.sent_tokens);
  reading x;
  if (!r.local_only) x.cached = c.cached;
  x.computed = r.prompt_tokens - std::min(r.prompt_tokens, x.cached);
  x.computing = x.computed / c.speed;
  x.seconds = ahead / c.speed + x.computing;
  if (r.local_only || known.in_store <= x.cached) return x;
  const double fetching =
      asking_a_store + (known.in_store - x.cached) * token_bytes(c.m) / link_of(c.m);
  const std::uint32_t rest = r.prompt_tokens - std::min(r.prompt_tokens, known.in_store);
  const double computing = rest / c.speed;
  if (fetching + computing >= x.computing) return x;
  x.from_store = true;
  x.cached = known.in_store;
  x.computed = rest;
  x.computing = computing;
  x.seconds = ahead / c.speed + fetching + computing;
  return x;
}

route_policy::candidate* route_policy::best_prefill(const route_request& r,
                                                    const known_prefix& known) {
  candidate* best = nullptr;
  double fastest = 0;
  for (auto& c : nodes_) {
    if (c.m.info.kind != role::prefill || c.m.state != node_state::ready || excluded(r, c.m))
      continue;
    if (!holds(c.m, std::uint64_t{r.prompt_tokens} + 1)) continue;
    const double t = read_at(c, r, known).seconds;
    if (best != nullptr && t >= fastest) continue;
    best = &c;
    fastest = t;
  }
  return best;
}

route_policy::way route_policy::best_way(candidate& decode, candidate* prefill,
                                         const route_request& r, const known_prefix& known) const {
  const reading here = read_at(decode, r, known);
  way w{here.seconds, here.seconds, 0, here, &decode, nullptr, "local_only"};
  const std::uint32_t two_blocks = 2 * std::max(1u, decode.m.info.block_tokens);
  if (r.local_only) return w;
  w.reason = r.prompt_tokens < two_blocks ? "short_prompt" : "prefix_cached";
  if (here.computed < two_blocks) return w;
  w.reason = "no_prefill_node";
  if (prefill == nullptr) return w;

  const reading there = read_at(*prefill, r, known);
  const std::uint32_t missing = r.prompt_tokens - std::min(r.prompt_tokens, decode.cached);
  // Pulling overlaps computing, but for the last chunk's blocks.
  const double bytes = token_bytes(prefill->m), link = link_of(decode.m);
  const double last_chunk = std::min(missing, prefill->m.info.block_tokens * 8) * bytes / link;
  w.remote_seconds = there.seconds + std::max(last_chunk, missing * bytes / link - there.computing);
  // Reading the prompt here would also stall the sequences that decode here: remote wins unless it is clearly slower.
  const double stall = decode.m.load.running > 0 ? 1.5 : 1.1;
  w.reason = "local_faster";
  if (w.remote_seconds > here.seconds * stall + 0.010) return w;
  w.reason = "remote_prefill";
  w.prefill = prefill;
  w.read = there;
  w.seconds = w.remote_seconds;
  return w;
}

std::optional<route_policy::way> route_policy::choose(const route_request& r,
                                                      const known_prefix& known) {
  std::vector<candidate*> able;
  std::uint32_t total = 1;
  for (std::size_t i = 0, n = nodes_.size(); i < n; ++i) {
    auto& c = nodes_[(i + turn_) % n];
    if (c.m.info.kind != role::decode || c.m.state != node_state::ready || excluded(r, c.m))
      continue;
    if (!holds(c.m, r.total_tokens)) continue;
    able.push_back(&c);
    total += c.requests();
  }
  ++turn_;
  if (able.empty()) return std::nullopt;
  auto* prefill = r.local_only ? nullptr : best_prefill(r, known);
  // Bounded load, as in consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2018).
  const double most = std::ceil(most_of_share * total / static_cast<double>(able.size()));
  std::vector<std::pair<double, way>> ways;
  for (auto* c : able) {
    if (able.size() > 1 && c->requests() + 1 > most) continue;
    way w = best_way(*c, prefill, r, known);
    const double step = std::clamp(static_cast<double>(c->m.load.decode_step_us) * 1e-6,
                                   shortest_step, longest_step);
    const std::uint32_t seqs = c->m.info.max_num_seqs;
    double cost = w.seconds + steps_a_request * step * c->requests();
    if (seqs > 0 && c->requests() >= seqs)
      cost += 1 + 64 * step * (c->requests() - seqs + 1) / seqs;
    ways.emplace_back(cost, w);
  }
  double least = ways.front().first;
  for (const auto& [cost, w] : ways) least = std::min(least, cost);
  const way* best = nullptr;
  auto load = [](const way& w) {
    return std::tuple(w.decode->requests(),
                      w.decode->m.load.waiting_tokens + w.decode->sent_tokens);
  };
  for (const auto& [cost, w] : ways) {
    if (cost > least * (1 + tie_share) + tie_seconds) continue;
    if (best == nullptr || load(w) < load(*best)) best = &w;
  }
  return *best;
}

route_decision route_policy::refuse(const route_request& r) const {
  route_decision d;
  d.reason = "refused";
  // One that would hold it and is away for now may be back before the request has waited long enough.
  std::uint32_t longest = 0;
  bool is_held = r.total_tokens <= longest_lost_;
  for (const auto& c : nodes_) {
    if (c.m.info.kind != role::decode) continue;
    is_held = is_held || holds(c.m, r.total_tokens);
    longest = std::max(longest, c.m.info.max_model_len);
  }
  if (longest > 0 && !is_held) {
    d.plan.code = ec::context_exceeded;
    d.plan.detail = std::to_string(r.total_tokens) +
                    " tokens of prompt and answer are more than the " + std::to_string(longest) +
                    " that the KV cache can hold";
    return d;
  }
  const bool loading = std::any_of(nodes_.begin(), nodes_.end(), [](const candidate& c) {
    return c.m.info.kind == role::decode && c.m.state == node_state::joining;
  });
  d.plan.code = ec::no_worker;
  d.plan.detail = loading ? "the decode node is still loading its model: try again shortly"
                          : "no decode node is in the cluster: start one with troupe node --role "
                            "decode --join ...";
  return d;
}

route_decision route_policy::decide(const route_request& r, time_point now) {
  const auto known = look_up(r);
  const auto chosen = choose(r, known);
  if (!chosen) return refuse(r);
  const way& w = *chosen;
  candidate& reader = w.prefill != nullptr ? *w.prefill : *w.decode;
  ++w.decode->sent_requests;
  reader.sent_tokens += w.read.computed;
  for (const auto* node : {w.decode, w.prefill})
    if (node != nullptr && !known.keys.empty())
      prefixes_.expect(node->m.info.start, known.keys[node->identity], now);

  route_decision d;
  d.reason = w.reason;
  auto& plan = d.plan;
  plan.decode = w.decode->m.info;
  plan.predicted_ttft_us = static_cast<std::uint64_t>(w.seconds * 1e6);
  plan.cached_tokens = w.read.cached;
  plan.has_prefill = w.prefill != nullptr;
  if (w.prefill != nullptr) plan.prefill = w.prefill->m.info;
  plan.choice = w.prefill != nullptr ? "remote" : "local";
  if (w.read.from_store) plan.choice += "_store";

  const std::string_view reason = w.reason;
  const std::string compared = "predicted " + milliseconds(w.remote_seconds) + " remote, " +
                               milliseconds(w.local_seconds) + " local";
  if (reason == "remote_prefill")
    plan.reason = "remote prefill: " + compared;
  else if (reason == "local_faster")
    plan.reason = "local prefill: " + compared;
  else if (reason == "local_only")
    plan.reason = "local prefill: prompt logprobs need the whole prompt here";
  else if (reason == "short_prompt")
    plan.reason = "local prefill: the prompt is shorter than two blocks";
  else if (reason == "prefix_cached")
    plan.reason = "local prefill: all but the prompt's end is cached";
  else
    plan.reason = "local prefill: no prefill node is ready";
  if (w.read.cached > 0)
    plan.reason += ", " + std::to_string(w.read.cached) + " tokens " +
                   (w.read.from_store ? "in a store" : "cached");
  return d;
}

}  // namespace troupe::actors
