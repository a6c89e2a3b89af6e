#include "engine/structured/grammar.hpp"

#include <algorithm>
#include <array>
#include <string>

namespace troupe::engine::structured {
namespace {

using kind = grammar::kind;
using symbol = grammar::symbol;

std::size_t encode_utf8(char32_t c, std::array<std::uint8_t, 4>& out) {
  const auto tail = [&](int shift) {
    return static_cast<std::uint8_t>(0x80 | ((c >> shift) & 0x3F));
  };
  if (c < 0x80) {
    out[0] = static_cast<std::uint8_t>(c);
    return 1;
  }
  if (c < 0x800) {
    out = {static_cast<std::uint8_t>(0xC0 | (c >> 6)), tail(0)};
    return 2;
  }
  if (c < 0x10000) {
    out = {static_cast<std::uint8_t>(0xE0 | (c >> 12)), tail(6), tail(0)};
    return 3;
  }
  out = {static_cast<std::uint8_t>(0xF0 | (c >> 18)), tail(12), tail(6), tail(0)};
  return 4;
}

byte_set range_of(std::uint8_t first, std::uint8_t last) {
  byte_set set;
  for (unsigned b = first; b <= last; ++b) set.set(b);
  return set;
}

}  // namespace

code_points complement(code_points of) {
  std::sort(of.begin(), of.end());
  code_points out;
  char32_t next = 0;
  for (const auto& [first, last] : of) {
    if (first > next) out.emplace_back(next, first - 1);
    next = std::max<char32_t>(next, last + 1);
  }
  if (next <= last_code_point) out.emplace_back(next, last_code_point);
  return out;
}

grammar_builder::rule grammar_builder::add_rule() {
  grammar_.rules.emplace_back();
  if (grammar_.rules.size() > max_symbols) too_large_ = true;
  return static_cast<rule>(grammar_.rules.size() - 1);
}

void grammar_builder::add_alternative(rule r, std::span<const symbol> symbols) {
  if (grammar_.symbols.size() + symbols.size() > max_symbols) too_large_ = true;
  if (too_large_) return;
  grammar_.rules[r].push_back(static_cast<std::uint32_t>(grammar_.symbols.size()));
  grammar_.symbols.insert(grammar_.symbols.end(), symbols.begin(), symbols.end());
  grammar_.symbols.push_back({});
}

std::uint32_t grammar_builder::set_of(const byte_set& set) {
  const auto [at, is_new] =
      set_ids_.try_emplace(set, static_cast<std::uint32_t>(grammar_.sets.size()));
  if (is_new) grammar_.sets.push_back(set);
  return at->second;
}

grammar_builder::rule grammar_builder::literal(std::string_view bytes) {
  const rule r = add_rule();
  std::vector<symbol> symbols;
  for (const char c : bytes) {
    const auto b = static_cast<std::uint8_t>(c);
    symbols.push_back({kind::bytes, set_of(range_of(b, b))});
  }
  add_alternative(r, symbols);
  return r;
}

// Ranges are cut where the encoding's length changes and then so that all but the first differing byte run over their whole
// range (R. Cox, "Regular Expression Matching in the Wild", on UTF-8 ranges).
void grammar_builder::add_utf8(rule r, char32_t first, char32_t last) {
  for (const char32_t limit : {0x7Fu, 0x7FFu, 0xFFFFu})
    if (first <= limit && last > limit) {
      add_utf8(r, first, limit);
      return add_utf8(r, limit + 1, last);
    }
  if (first < 0xD800 && last >= 0xD800) add_utf8(r, first, 0xD7FF);
  if (last >= 0xD800 && first <= 0xDFFF) {  // surrogates are no characters
    if (last > 0xDFFF) add_utf8(r, 0xE000, last);
    return;
  }
  for (int bits = 6; bits < 24; bits += 6) {
    const char32_t mask = (char32_t{1} << bits) - 1;
    if (last < 0x80 || (first & ~mask) == (last & ~mask)) break;
    if ((first & mask) != 0) {
      add_utf8(r, first, first | mask);
      return add_utf8(r, (first | mask) + 1, last);
    }
    if ((last & mask) != mask) {
      add_utf8(r, first, (last & ~mask) - 1);
      return add_utf8(r, last & ~mask, last);
    }
  }
  std::array<std::uint8_t, 4> low{}, high{};
  const std::size_t n = encode_utf8(first, low);
  encode_utf8(last, high);
  std::array<symbol, 4> symbols;
  for (std::size_t i = 0; i < n; ++i) symbols[i] = {kind::bytes, set_of(range_of(low[i], high[i]))};
  add_alternative(r, std::span(symbols).first(n));
}

grammar_builder::rule grammar_builder::one_of(const code_points& characters) {
  const rule r = add_rule();
  byte_set ascii;
  for (const auto& [first, last] : characters) {
    if (first > last) continue;
    for (char32_t c = first; c <= std::min<char32_t>(last, 0x7F); ++c) ascii.set(c);
    if (last >= 0x80) add_utf8(r, std::max<char32_t>(first, 0x80), std::min(last, last_code_point));
  }
  if (ascii.any()) add_alternative(r, std::array{symbol{kind::bytes, set_of(ascii)}});
  return r;
}

grammar_builder::rule grammar_builder::sequence(std::span<const rule> parts) {
  const rule r = add_rule();
  std::vector<symbol> symbols;
  for (const rule p : parts) symbols.push_back({kind::rule, p});
  add_alternative(r, symbols);
  return r;
}

grammar_builder::rule grammar_builder::choice(std::span<const rule> of) {
  const rule r = add_rule();
  for (const rule p : of) add_alternative(r, std::array{symbol{kind::rule, p}});
  return r;
}

grammar_builder::rule grammar_builder::repeat(rule r, std::uint32_t least, std::int64_t most) {
  if (least > max_symbols || most > static_cast<std::int64_t>(max_symbols)) {
    too_large_ = true;
    return r;
  }
  rule rest = add_rule();
  add_alternative(rest, {});
  if (most < 0) {
    add_alternative(rest, std::array{symbol{kind::rule, r}, symbol{kind::rule, rest}});
  } else {
    for (std::int64_t i = least; i < most && !too_large_; ++i) {
      const rule more = add_rule();
      add_alternative(more, {});
      add_alternative(more, std::array{symbol{kind::rule, r}, symbol{kind::rule, rest}});
      rest = more;
    }
  }
  // As a chain, so that equal rests of different counts are one rule.
  for (std::uint32_t i = 0; i < least && !too_large_; ++i) {
    const rule more = add_rule();
    add_alternative(more, std::array{symbol{kind::rule, r}, symbol{kind::rule, rest}});
    rest = more;
  }
  return rest;
}

grammar_builder::rule grammar_builder::declare() {
  return add_rule();
}

void grammar_builder::define(rule r, rule as) {
  add_alternative(r, std::array{symbol{kind::rule, as}});
}

void grammar_builder::define(rule r, const byte_set& first, rule then) {
  if (first.any())
    add_alternative(r, std::array{symbol{kind::bytes, set_of(first)}, symbol{kind::rule, then}});
}

// Rules that have an alternative of such rules only, and of bytes where `with_bytes`: those that can match nothing at all, or
// some text. Each symbol is counted down once.
std::vector<bool> grammar_builder::derivable(bool with_bytes) const {
  const grammar& g = grammar_;
  std::vector<bool> found(g.rules.size());
  std::vector<std::uint32_t> todo, owner,
      missing;  // of alternatives: whose they are, symbols not derivable yet
  std::vector<std::vector<std::uint32_t>> named_in(
      g.rules.size());  // alternatives, once an occurrence
  const auto derive = [&](std::uint32_t r) {
    if (found[r]) return;
    found[r] = true;
    todo.push_back(r);
  };
  for (std::uint32_t r = 0; r < g.rules.size(); ++r)
    for (std::uint32_t at : g.rules[r]) {
      const auto alternative = static_cast<std::uint32_t>(owner.size());
      owner.push_back(r);
      missing.push_back(0);
      for (; g.symbols[at].is != kind::end; ++at) {
        if (g.symbols[at].is == kind::bytes && with_bytes) continue;
        ++missing.back();
        if (g.symbols[at].is == kind::rule) named_in[g.symbols[at].index].push_back(alternative);
      }
      if (missing.back() == 0) derive(r);
    }
  while (!todo.empty()) {
    const std::uint32_t r = todo.back();
    todo.pop_back();
    for (const std::uint32_t alternative : named_in[r])
      if (--missing[alternative] == 0) derive(owner[alternative]);
  }
  return found;
}

// Alternatives that no text ends are left out, so that whatever is begun can be finished.
void grammar_builder::drop_endless() {
  const std::vector<bool> productive = derivable(true);
  for (auto& alternatives : grammar_.rules)
    std::erase_if(alternatives, [&](std::uint32_t at) {
      for (; grammar_.symbols[at].is != kind::end; ++at)
        if (grammar_.symbols[at].is == kind::rule && !productive[grammar_.symbols[at].index])
          return true;
      return false;
    });
}

// A rule that reaches itself before any byte is matched, with something left to match behind it: its stack would grow
// without end. (Where nothing is left, as in the repetition of what may be empty, the stack stays as it is.) That is an
// edge of the begins-with relation inside one strongly connected component, which Kosaraju's two searches find.
result<void> grammar_builder::check_left_recursion() const {
  const grammar& g = grammar_;
  const std::vector<bool> nullable = derivable(false);
  const std::size_t n = g.rules.size();
  std::vector<std::vector<std::uint32_t>> begins(n), begun_by(n);
  std::vector<std::pair<std::uint32_t, std::uint32_t>> growing;
  for (std::uint32_t r = 0; r < n; ++r)
    for (std::uint32_t at : g.rules[r])
      for (; g.symbols[at].is == kind::rule; ++at) {
        const std::uint32_t to = g.symbols[at].index;
        begins[r].push_back(to);
        begun_by[to].push_back(r);
        if (g.symbols[at + 1].is != kind::end) growing.emplace_back(r, to);
        if (!nullable[to]) break;
      }
  std::vector<std::uint32_t> order, component(n, 0);
  std::vector<std::pair<std::uint32_t, std::size_t>> path;
  std::vector<bool> seen(n);
  for (std::uint32_t start = 0; start < n; ++start) {
    if (seen[start]) continue;
    seen[start] = true;
    path.emplace_back(start, 0);
    while (!path.empty()) {
      auto& [r, next] = path.back();
      if (next == begins[r].size()) {
        order.push_back(r);
        path.pop_back();
      } else if (const std::uint32_t to = begins[r][next++]; !seen[to]) {
        seen[to] = true;
        path.emplace_back(to, 0);
      }
    }
  }
  std::uint32_t components = 0;
  std::vector<std::uint32_t> todo;
  for (std::size_t i = n; i-- > 0;) {
    if (component[order[i]] != 0) continue;
    component[order[i]] = ++components;
    todo.push_back(order[i]);
    while (!todo.empty()) {
      const std::uint32_t r = todo.back();
      todo.pop_back();
      for (const std::uint32_t from : begun_by[r])
        if (component[from] == 0) {
          component[from] = components;
          todo.push_back(from);
        }
    }
  }
  for (const auto& [from, to] : growing)
    if (component[from] == component[to])
      return fail(
          ec::invalid_argument,
          "the grammar is left-recursive: a rule begins with itself; write it with repetition");
  return {};
}

void grammar_builder::find_classes() {
  std::array<std::uint8_t, 256>& class_of = grammar_.class_of;
  std::size_t classes = 1;
  for (const byte_set& set : grammar_.sets) {
    std::array<int, 512> split;  // by class and whether the set has it
    split.fill(-1);
    int found = 0;
    for (std::size_t b = 0; b < class_of.size(); ++b) {
      int& id = split[2 * class_of[b] + (set[b] ? 1 : 0)];
      if (id < 0) id = found++;
      class_of[b] = static_cast<std::uint8_t>(id);
    }
    classes = static_cast<std::size_t>(found);
    if (classes == class_of.size()) break;  // each is one of its own
  }
  grammar_.first_of_class.resize(classes);
  for (std::size_t b = class_of.size(); b-- > 0;)
    grammar_.first_of_class[class_of[b]] = static_cast<std::uint8_t>(b);
}

result<grammar> grammar_builder::build(rule root) && {
  if (too_large_)
    return fail(ec::invalid_argument, "the grammar unfolds to more than " +
                                          std::to_string(max_symbols) +
                                          " symbols: use fewer or shorter repetitions");
  drop_endless();
  if (grammar_.rules[root].empty())
    return fail(ec::invalid_argument, "no text is of the form that is asked for");
  TROUPE_CHECK(check_left_recursion());
  grammar_.root = root;
  find_classes();
  return std::move(grammar_);
}

}  // namespace troupe::engine::structured
