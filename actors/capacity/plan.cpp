#include "actors/capacity/plan.hpp"

#include <algorithm>
#include <cmath>
#include <set>

#include "actors/capacity/planner.hpp"

namespace troupe::actors {

distribution summarize(std::vector<double> values) {
  distribution d;
  d.count = values.size();
  if (values.empty()) return d;
  std::sort(values.begin(), values.end());
  const auto quantile = [&](double q) {
    const auto rank = std::ceil(q * static_cast<double>(values.size()));
    return values[static_cast<std::size_t>(std::max(1.0, rank)) - 1];
  };
  for (double v : values) d.mean += v / static_cast<double>(values.size());
  d.p50 = quantile(0.5), d.p90 = quantile(0.9), d.p99 = quantile(0.99), d.max = values.back();
  return d;
}

result<plan_report> plan_capacity(const std::vector<trace_request>& trace,
                                  const plan_options& options) {
  if (options.num_decode == 0) return fail(ec::invalid_argument, "at least one node must decode");
  TROUPE_CHECK(validate(options.decode));
  if (options.num_prefill > 0) {
    TROUPE_CHECK(validate(options.prefill));
    if (options.prefill.block_tokens != options.decode.block_tokens ||
        options.prefill.block_bytes != options.decode.block_bytes)
      return fail(ec::invalid_argument,
                  "the profiles of prefill and decode nodes have blocks of other sizes: such nodes "
                  "could not exchange them");
  }
  if (options.hash_tokens == 0) return fail(ec::invalid_argument, "hash_tokens must be positive");
  if (!std::isfinite(options.load) || options.load <= 0)
    return fail(ec::invalid_argument, "load must be positive");
  planner p(trace, options);
  TROUPE_CHECK(p.build());
  return p.run();
}

namespace {

bool better(const plan_report& a, const plan_report& b) {
  const double largest = std::max(a.goodput, b.goodput);
  if (std::abs(a.goodput - b.goodput) > 0.005 * largest) return a.goodput > b.goodput;
  return a.e2e.mean < b.e2e.mean;
}

}  // namespace

result<ratio_search> find_ratio(const std::vector<trace_request>& trace, plan_options options,
                                std::uint32_t nodes,
                                const std::function<void(const ratio_point&)>& told) {
  if (nodes == 0) return fail(ec::invalid_argument, "a cluster has at least one node");
  std::map<std::uint32_t, plan_report> known;  // by prefill nodes
  const auto best = [&] {
    auto at = known.begin();
    for (auto it = known.begin(); it != known.end(); ++it)
      if (better(it->second, at->second)) at = it;
    return at->first;
  };
  const auto look_at = [&](std::int64_t prefill) -> result<void> {
    if (prefill < 0 || prefill >= nodes || known.contains(static_cast<std::uint32_t>(prefill)))
      return {};
    const auto p = static_cast<std::uint32_t>(prefill);
    options.num_prefill = p;
    options.num_decode = nodes - p;
    TROUPE_TRY(auto report, plan_capacity(trace, options));
    const auto& kept = known.emplace(p, std::move(report)).first->second;
    if (told) told({p, nodes - p, kept});
    return {};
  };
  std::uint32_t stride = std::max(1u, nodes / 8);
  for (std::uint32_t p = 0; p < nodes; p += stride) TROUPE_CHECK(look_at(p));
  while (stride > 1) {
    stride = (stride + 1) / 2;
    const std::int64_t center = best();
    TROUPE_CHECK(look_at(center - stride));
    TROUPE_CHECK(look_at(center + stride));
  }
  ratio_search out;
  const auto winner = best();
  for (auto& [p, report] : known) {
    if (p == winner) out.best = out.points.size();
    out.points.push_back({p, nodes - p, std::move(report)});
  }
  return out;
}

}  // namespace troupe::actors
