#include "api/vocabulary_choice.hpp"

#include <algorithm>
#include <numeric>

namespace troupe::api {

result<std::vector<token_id>> choose_vocabulary(const model::tokenizer& tokenizer,
                                                std::size_t count,
                                                const std::vector<std::string>& texts) {
  const std::size_t all = tokenizer.vocab_size();
  constexpr std::uint64_t must = ~std::uint64_t{0};
  std::vector<std::uint64_t> uses(all);
  for (const std::string& text : texts)
    for (const token_id t : tokenizer.encode(text, false)) ++uses[t];
  for (token_id t = 0; t < all; ++t)
    if (tokenizer.is_special(t)) uses[t] = must;
  for (const token_id t : tokenizer.end_of_generation()) uses[t] = must;
  const auto needed = static_cast<std::size_t>(std::count(uses.begin(), uses.end(), must));
  if (count < needed || count > all)
    return fail(ec::invalid_argument, "a vocabulary of " + std::to_string(count) +
                                          " tokens: the model has " + std::to_string(all) +
                                          ", and " + std::to_string(needed) +
                                          " of them are special and must stay");
  std::vector<token_id> order(all);
  std::iota(order.begin(), order.end(), token_id{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](token_id a, token_id b) { return uses[a] > uses[b]; });
  order.resize(count);
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace troupe::api
