// A context-free grammar over bytes: what the text of an answer must be. JSON schemas, regular expressions, choices and GBNF
// (llama.cpp's notation) are compiled to it, characters beyond ASCII as their UTF-8 sequences.
//
// Plain values; any thread. Sizes are bounded: a grammar that unfolds to more than max_symbols is refused.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <span>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/result.hpp"

namespace troupe::engine::structured {

using byte_set = std::bitset<256>;
// Inclusive Unicode scalar values.
using code_points = std::vector<std::pair<char32_t, char32_t>>;
code_points complement(code_points of);

inline constexpr char32_t last_code_point = 0x10FFFF;
// Stands before a special token's text (vocabulary.hpp); never part of UTF-8.
inline constexpr char special_mark = '\xFF';
inline constexpr std::size_t max_symbols = 200'000;

struct grammar {
  // A symbol: the end of an alternative, a byte out of a set, or a rule.
  enum class kind : std::uint8_t { end, bytes, rule };
  struct symbol {
    kind is = kind::end;
    std::uint32_t index = 0;  // of sets or rules
  };
  std::vector<symbol> symbols;  // alternatives, each closed by `end`
  std::vector<byte_set> sets;
  std::vector<std::vector<std::uint32_t>> rules;  // their alternatives: first symbols
  std::uint32_t root = 0;
  // Bytes that no set tells apart are of one class.
  std::array<std::uint8_t, 256> class_of{};
  std::vector<std::uint8_t> first_of_class;
};

// Puts a grammar together. Each function gives a rule that matches what it says.
class grammar_builder {
 public:
  using rule = std::uint32_t;

  rule literal(std::string_view bytes);
  rule one_of(const code_points& characters);  // one character
  rule sequence(std::span<const rule> parts);
  rule sequence(std::initializer_list<rule> parts) { return sequence(std::span(parts)); }
  rule choice(std::span<const rule> of);
  rule choice(std::initializer_list<rule> of) { return choice(std::span(of)); }
  rule optional(rule r) { return repeat(r, 0, 1); }
  // From `least` to `most` times; most < 0: without end.
  rule repeat(rule r, std::uint32_t least, std::int64_t most);
  // A rule that is defined later, so that it can be named inside itself.
  rule declare();
  void define(rule r, rule as);
  // The same as `define` for one byte and what follows it, which need not be text.
  void define(rule r, const byte_set& first, rule then);

  // ec::invalid_argument: too large, nothing matches, or left recursion, which would never match a byte.
  result<grammar> build(rule root) &&;

 private:
  rule add_rule();
  void add_alternative(rule r, std::span<const grammar::symbol> symbols);
  std::uint32_t set_of(const byte_set& set);
  void add_utf8(rule r, char32_t first, char32_t last);
  std::vector<bool> derivable(bool with_bytes) const;
  void drop_endless();
  result<void> check_left_recursion() const;
  void find_classes();

  grammar grammar_;
  std::unordered_map<byte_set, std::uint32_t> set_ids_;
  bool too_large_ = false;
};

}  // namespace troupe::engine::structured
