#include "actors/route_policy.hpp"

#include <algorithm>
#include <tuple>

namespace troupe::actors {
namespace {

// Until a node has measured itself.
constexpr double default_prefill_speed = 500;  // tokens a second
constexpr double default_link = 1e9;           // bytes a second
constexpr double kv_bytes_per_token_guess =
    64 * 1024;  // only to rank: the transfer overlaps computing

double seconds_to_first_token(const member& m, std::uint64_t tokens_ahead, std::uint32_t prompt) {
  const double speed = m.load.prefill_tokens_per_second > 0
                           ? static_cast<double>(m.load.prefill_tokens_per_second)
                           : default_prefill_speed;
  return static_cast<double>(tokens_ahead + prompt) / speed;
}

double transfer_seconds(const member& decode, const member& prefill) {
  const double link = decode.load.pull_bytes_per_second > 0
                          ? static_cast<double>(decode.load.pull_bytes_per_second)
                          : default_link;
  // Only the last chunk's blocks are not overlapped.
  return static_cast<double>(prefill.info.block_tokens) * 8 * kv_bytes_per_token_guess / link;
}

std::string milliseconds(double seconds) {
  return std::to_string(static_cast<long>(seconds * 1000 + 0.5)) + " ms";
}

}  // namespace

void route_policy::update(const membership& m) {
  std::vector<candidate> next;
  for (const auto& node : m.members) {
    if (node.info.kind != role::decode && node.info.kind != role::prefill) continue;
    next.push_back({node, 0, 0});
  }
  nodes_ = std::move(next);
}

route_policy::candidate* route_policy::best_decode(const route_request& r) {
  candidate* best = nullptr;
  auto cost = [&](const candidate& c) {
    return std::tuple(
        c.m.load.running + c.m.load.waiting + c.m.load.waiting_remote + c.sent_requests,
        c.m.load.waiting_tokens + c.sent_tokens);
  };
  const std::size_t n = nodes_.size();
  for (std::size_t i = 0; i < n; ++i) {
    auto& c = nodes_[(i + turn_) % n];
    if (c.m.info.kind != role::decode || c.m.state != node_state::ready) continue;
    if (std::find(r.excluded.begin(), r.excluded.end(), c.m.info.start) != r.excluded.end())
      continue;
    if (best == nullptr || cost(c) < cost(*best)) best = &c;
  }
  ++turn_;
  return best;
}

route_policy::candidate* route_policy::best_prefill(const route_request& r) {
  candidate* best = nullptr;
  auto cost = [&](const candidate& c) {
    return seconds_to_first_token(c.m, c.m.load.waiting_tokens + c.sent_tokens, r.prompt_tokens);
  };
  for (auto& c : nodes_) {
    if (c.m.info.kind != role::prefill || c.m.state != node_state::ready) continue;
    if (std::find(r.excluded.begin(), r.excluded.end(), c.m.info.start) != r.excluded.end())
      continue;
    if (best == nullptr || cost(c) < cost(*best)) best = &c;
  }
  return best;
}

route_decision route_policy::decide(const route_request& r) {
  route_decision d;
  auto* decode = best_decode(r);
  if (decode == nullptr) {
    const bool loading = std::any_of(nodes_.begin(), nodes_.end(), [](const candidate& c) {
      return c.m.info.kind == role::decode && c.m.state == node_state::joining;
    });
    d.reason = "refused";
    d.plan.code = ec::no_worker;
    d.plan.detail = loading ? "the decode node is still loading its model: try again shortly"
                            : "no decode node is in the cluster: start one with troupe node --role "
                              "decode --join ...";
    return d;
  }
  d.plan.decode = decode->m.info;
  ++decode->sent_requests;
  const double local = seconds_to_first_token(
      decode->m, decode->m.load.waiting_tokens + decode->sent_tokens, r.prompt_tokens);
  auto keep_local = [&](const char* label, const std::string& text) {
    decode->sent_tokens += r.prompt_tokens;
    d.reason = label;
    d.plan.reason = text;
    d.plan.predicted_ttft_us = static_cast<std::uint64_t>(local * 1e6);
    return d;
  };
  if (r.local_only)
    return keep_local("local_only", "local prefill: prompt logprobs need the whole prompt here");
  if (r.prompt_tokens < 2 * std::max(1u, decode->m.info.block_tokens))
    return keep_local("short_prompt", "local prefill: the prompt is shorter than two blocks");
  auto* prefill = best_prefill(r);
  if (prefill == nullptr)
    return keep_local("no_prefill_node", "local prefill: no prefill node is ready");

  const double remote =
      seconds_to_first_token(prefill->m, prefill->m.load.waiting_tokens + prefill->sent_tokens,
                             r.prompt_tokens) +
      transfer_seconds(decode->m, prefill->m);
  // Reading the prompt here would also stall the sequences that decode here: remote wins unless it is clearly slower.
  const double stall = decode->m.load.running > 0 ? 1.5 : 1.1;
  const std::string compared =
      "predicted " + milliseconds(remote) + " remote, " + milliseconds(local) + " local";
  if (remote > local * stall + 0.010)
    return keep_local("local_faster", "local prefill: " + compared);
  prefill->sent_tokens += r.prompt_tokens;
  d.reason = "remote_prefill";
  d.plan.has_prefill = true;
  d.plan.prefill = prefill->m.info;
  d.plan.reason = "remote prefill: " + compared;
  d.plan.predicted_ttft_us = static_cast<std::uint64_t>(remote * 1e6);
  return d;
}

}  // namespace troupe::actors
