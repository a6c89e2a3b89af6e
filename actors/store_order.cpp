#include "actors/store_order.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/result.hpp"

namespace troupe::actors {

std::vector<store_place> store_order(const hash128_t& first_block, std::vector<store_place> all) {
  auto weight = [&](const store_place& s) {
    const std::uint64_t its_name = hash64(std::as_bytes(std::span(s.name.data(), s.name.size())));
    const std::array<std::uint64_t, 3> both{first_block.high, first_block.low, its_name};
    return hash64(std::as_bytes(std::span(both)));
  };
  std::vector<std::pair<std::uint64_t, store_place>> weighed;
  for (auto& s : all) weighed.emplace_back(weight(s), std::move(s));
  std::ranges::sort(weighed, [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first > b.first : a.second.start < b.second.start;
  });
  std::vector<store_place> ordered;
  for (auto& [w, s] : weighed) ordered.push_back(std::move(s));
  return ordered;
}

const store_place& store_to_read(std::span<const store_place> ordered, std::uint32_t copies,
                                 std::uint64_t turn) {
  TROUPE_ASSERT(!ordered.empty());
  constexpr double most_over_mean = 1.25;
  double total = 1;
  for (const auto& s : ordered) total += s.load;
  const double bound = std::ceil(most_over_mean * total / static_cast<double>(ordered.size()));
  const std::size_t n = std::clamp<std::size_t>(copies, 1, ordered.size());
  const store_place* least = nullptr;
  for (std::size_t i = 0; i < n; ++i) {
    const auto& s = ordered[(i + turn) % n];
    if (s.load + 1 <= bound) return s;
    if (least == nullptr || s.load < least->load) least = &s;
  }
  return *least;
}

}  // namespace troupe::actors
