#include "engine/structured/byte_search.hpp"

#include <map>

namespace troupe::engine::structured {

byte_search::byte_search(std::string_view wanted) : next_(wanted.size()) {
  std::size_t border = 0;
  for (std::size_t s = 0; s < wanted.size(); ++s) {
    const auto b = static_cast<unsigned char>(wanted[s]);
    if (s > 0) next_[s] = next_[border];
    if (s > 0) border = next_[border][b];
    next_[s][b] = s + 1;
  }
}

void byte_search::go_on(grammar_builder& to, grammar_builder::rule from, std::size_t s,
                        const byte_set& without,
                        const std::vector<grammar_builder::rule>& states) const {
  std::map<std::size_t, byte_set> targets;
  for (unsigned b = 0; b < 256; ++b)
    if (!without[b]) targets[next(s, static_cast<std::uint8_t>(b))].set(b);
  for (const auto& [target, bytes] : targets) to.define(from, bytes, states[target]);
}

grammar_builder::rule byte_search::until(grammar_builder& to, grammar_builder::rule then,
                                         const byte_set& without) const {
  std::vector<grammar_builder::rule> all(states());
  for (auto& r : all) r = to.declare();
  all.push_back(then);
  for (std::size_t s = 0; s < states(); ++s) go_on(to, all[s], s, without, all);
  return all[0];
}

}  // namespace troupe::engine::structured
