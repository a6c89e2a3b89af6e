#include "actors/capacity/profile.hpp"

#include <algorithm>
#include <cmath>

namespace troupe::actors {
namespace {

double at(const std::vector<rows_seconds>& table, double rows) {
  if (table.size() == 1) return table.front().seconds;
  auto above = std::lower_bound(table.begin() + 1, table.end() - 1, rows,
                                [](const rows_seconds& p, double r) { return p.rows < r; });
  const auto& a = *(above - 1);
  const auto& b = *above;
  return std::max(0.0, a.seconds + (b.seconds - a.seconds) * (rows - a.rows) / (b.rows - a.rows));
}

result<void> check_table(const std::vector<rows_seconds>& table, const std::string& name) {
  if (table.empty()) return fail(ec::invalid_argument, name + ": at least one [rows, seconds]");
  double before = 0;
  for (const auto& p : table) {
    if (!std::isfinite(p.rows) || p.rows <= before)
      return fail(ec::invalid_argument, name + ": rows must be positive and ascending");
    if (!std::isfinite(p.seconds) || p.seconds <= 0)
      return fail(ec::invalid_argument, name + ": seconds must be positive");
    before = p.rows;
  }
  return {};
}

}  // namespace

double device_profile::pass_seconds(std::span<const gpu::sequence_rows> sequences) const {
  double rows = 0, decodes = 0, context = 0;
  for (const auto& s : sequences) {
    const auto count = static_cast<double>(s.tokens.size());
    rows += count;
    if (s.tokens.size() == 1) {
      ++decodes;
      context += decode_context_seconds * s.first_position;
    } else {
      context += prompt_context_seconds * count * s.first_position;
    }
  }
  if (rows == 0) return 0;
  const double logits = decodes == 0 ? 0 : std::max(0.0, at(decode, decodes) - at(prompt, decodes));
  return at(prompt, rows) + logits + context;
}

result<void> validate(const device_profile& p) {
  TROUPE_CHECK(check_table(p.prompt, "prompt"));
  TROUPE_CHECK(check_table(p.decode, "decode"));
  const std::pair<const char*, double> times[] = {
      {"prompt_context_seconds", p.prompt_context_seconds},
      {"decode_context_seconds", p.decode_context_seconds},
      {"turn_seconds", p.turn_seconds},
      {"link_latency_seconds", p.link_latency_seconds},
      {"message_seconds", p.message_seconds},
      {"request_seconds", p.request_seconds}};
  for (const auto& [name, value] : times)
    if (!std::isfinite(value) || value < 0 || value > 3600)
      return fail(ec::invalid_argument, std::string(name) + ": must be in [0, 3600]");
  if (!std::isfinite(p.link_bytes_per_second) || p.link_bytes_per_second <= 0)
    return fail(ec::invalid_argument, "link_bytes_per_second: must be positive");
  if (p.block_tokens == 0 || p.block_tokens > 4096)
    return fail(ec::invalid_argument, "block_tokens: must be in [1, 4096]");
  if (p.block_bytes == 0) return fail(ec::invalid_argument, "block_bytes: must be positive");
  if (p.num_blocks < 4 || p.num_blocks > (1u << 24))
    return fail(ec::invalid_argument, "num_blocks: must be in [4, 16777216]");
  if (p.max_model_len < 2) return fail(ec::invalid_argument, "max_model_len: must be at least 2");
  return {};
}

}  // namespace troupe::actors
