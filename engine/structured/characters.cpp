#include "engine/structured/characters.hpp"

namespace troupe::engine::structured {

result<std::optional<repetition>> read_repetition(character_reader& in) {
  if (in.take("*")) return repetition{0, -1};
  if (in.take("+")) return repetition{1, -1};
  if (in.take("?")) return repetition{0, 1};
  if (in.peek() != '{') return std::nullopt;
  in.take("{");
  const auto wrong = [&] {
    return fail(ec::invalid_argument, "a repetition at byte " + std::to_string(in.position()) +
                                          " is not of the form {m,n}");
  };
  const auto least = in.number();
  repetition r{least.value_or(0), least ? std::int64_t{*least} : -1};
  const bool range = in.take(",");
  if (!range && !least) return wrong();
  if (range) {
    const bool open = in.peek() == '}';
    const auto most = in.number();
    if (!open && !most) return wrong();
    r.most = open ? -1 : std::int64_t{*most};
  }
  if (!in.take("}") || (r.most >= 0 && r.most < r.least)) return wrong();
  return r;
}

}  // namespace troupe::engine::structured
