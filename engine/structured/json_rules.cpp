#include "engine/structured/json_rules.hpp"

#include <algorithm>
#include <string>

namespace troupe::engine::structured {
namespace {

const code_points hex_digits = {{'0', '9'}, {'A', 'F'}, {'a', 'f'}};

// The part of `of` that is in [first, last].
code_points within(const code_points& of, char32_t first, char32_t last) {
  code_points out;
  for (const auto& [low, high] : of)
    if (low <= last && high >= first) out.emplace_back(std::max(low, first), std::min(high, last));
  return out;
}

std::string escaped(char32_t c) {
  static constexpr std::string_view short_forms = "\"\"\\\\\bb\ff\nn\rr\tt";
  for (std::size_t i = 0; i < short_forms.size(); i += 2)
    if (c == static_cast<unsigned char>(short_forms[i])) return {'\\', short_forms[i + 1]};
  static constexpr char digits[] = "0123456789abcdef";
  return {'\\', 'u', '0', '0', digits[c >> 4], digits[c & 15]};
}

builder_rule optional_whitespace(grammar_builder& to) {
  const builder_rule line = to.sequence({to.literal("\n"), to.repeat(to.literal(" "), 0, 24)});
  return to.optional(to.choice({to.literal(" "), line}));
}

}  // namespace

builder_rule json_characters(grammar_builder& to, const code_points& set) {
  code_points plain = within(set, 0x20, '"' - 1);
  for (const auto& part : {within(set, '"' + 1, '\\' - 1), within(set, '\\' + 1, last_code_point)})
    plain.insert(plain.end(), part.begin(), part.end());
  std::vector<builder_rule> all;
  if (!plain.empty()) all.push_back(to.one_of(plain));
  for (const auto& part : {within(set, 0, 0x1F), within(set, '"', '"'), within(set, '\\', '\\')})
    for (const auto& [first, last] : part)
      for (char32_t c = first; c <= last; ++c) all.push_back(to.literal(escaped(c)));
  return to.choice(all);
}

builder_rule json_character(grammar_builder& to) {
  const builder_rule hex = to.one_of(hex_digits);
  const builder_rule not_d =
      to.one_of({{'0', '9'}, {'A', 'C'}, {'E', 'F'}, {'a', 'c'}, {'e', 'f'}});
  const builder_rule unicode = to.choice(
      {to.sequence({not_d, hex, hex, hex}),
       to.sequence({to.one_of({{'D', 'D'}, {'d', 'd'}}), to.one_of({{'0', '7'}}), hex, hex})});
  const builder_rule escape = to.choice({to.one_of({{'"', '"'},
                                                    {'\\', '\\'},
                                                    {'/', '/'},
                                                    {'b', 'b'},
                                                    {'f', 'f'},
                                                    {'n', 'n'},
                                                    {'r', 'r'},
                                                    {'t', 't'}}),
                                         to.sequence({to.literal("u"), unicode})});
  return to.choice({to.one_of(complement({{0, 0x1F}, {'"', '"'}, {'\\', '\\'}})),
                    to.sequence({to.literal("\\"), escape})});
}

json_rules::json_rules(grammar_builder& to) : to_(to) {
  whitespace = optional_whitespace(to);
  comma = to.sequence({to.literal(","), whitespace});
  character = json_character(to);
  const builder_rule quote = to.literal("\"");
  string = to.sequence({quote, to.repeat(character, 0, -1), quote});
  const builder_rule digit = to.one_of({{'0', '9'}}), minus = to.optional(to.literal("-"));
  const auto whole = [&](std::uint32_t digits) {
    return to.choice(
        {to.literal("0"), to.sequence({to.one_of({{'1', '9'}}), to.repeat(digit, 0, digits - 1)})});
  };
  integer = to.sequence({minus, whole(18)});
  const builder_rule fraction = to.sequence({to.literal("."), to.repeat(digit, 1, 15)});
  const builder_rule sign = to.optional(to.one_of({{'+', '+'}, {'-', '-'}}));
  const builder_rule exponent =
      to.sequence({to.one_of({{'E', 'E'}, {'e', 'e'}}), sign, to.repeat(digit, 1, 2)});
  number = to.sequence({minus, whole(15), to.optional(fraction), to.optional(exponent)});
  boolean = to.choice({to.literal("true"), to.literal("false")});
  null = to.literal("null");
  value = to.declare();
  const auto list_of = [&](builder_rule one) {
    return to.optional(to.sequence({one, to.repeat(to.sequence({comma, one}), 0, -1)}));
  };
  object = enclosed('{', list_of(member(string, value)), '}');
  array = enclosed('[', list_of(value), ']');
  to.define(value, to.choice({object, array, string, number, boolean, null}));
}

builder_rule json_rules::enclosed(char open, builder_rule inside, char close) {
  return to_.sequence({to_.literal(std::string_view(&open, 1)), whitespace, inside, whitespace,
                       to_.literal(std::string_view(&close, 1))});
}

builder_rule json_rules::member(builder_rule key, builder_rule of) {
  return to_.sequence({key, to_.literal(":"), whitespace, of});
}

}  // namespace troupe::engine::structured
