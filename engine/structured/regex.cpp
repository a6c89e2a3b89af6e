#include <algorithm>
#include <string>

#include "engine/structured/answer_format.hpp"
#include "engine/structured/characters.hpp"
#include "engine/structured/json_rules.hpp"

namespace troupe::engine::structured {
namespace {

using rule = grammar_builder::rule;

const code_points digits = {{'0', '9'}};
const code_points word = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
const code_points space = {{'\t', '\r'}, {' ', ' '}};

class regex_parser {
 public:
  regex_parser(grammar_builder& to, std::string_view text, bool inside_json_string)
      : to_(to), in_(text), json_(inside_json_string) {}

  rule_result parse() {
    TROUPE_TRY(const rule r, alternatives(0));
    if (!in_.at_end()) return wrong("a ')' has no '('");
    return r;
  }

 private:
  tl::unexpected<error> wrong(const std::string& what) const {
    return fail(ec::invalid_argument,
                "regular expression, byte " + std::to_string(in_.position()) + ": " + what);
  }
  tl::unexpected<error> unsupported(const std::string& what) const {
    return fail(ec::unsupported, "regular expression, byte " + std::to_string(in_.position()) +
                                     ": " + what +
                                     " cannot be kept while text is generated: leave it out");
  }

  rule characters(const code_points& set) {
    return json_ ? json_characters(to_, set) : to_.one_of(set);
  }
  // What may stand before and behind an expression that is not anchored: only a JSON string's pattern is searched for.
  rule anything() {
    return to_.repeat(json_ ? json_character(to_) : to_.literal(""), 0, json_ ? -1 : 0);
  }

  rule_result alternatives(int depth) {
    if (depth > max_source_depth) return wrong("groups are nested too deeply");
    std::vector<rule> all;
    do {
      TROUPE_TRY(const rule one, sequence(depth));
      all.push_back(one);
    } while (in_.take("|"));
    return all.size() == 1 ? all.front() : to_.choice(all);
  }

  rule_result sequence(int depth) {
    std::vector<rule> parts;
    const bool top = depth == 0;
    if (in_.take("^")) {
      if (!top) return unsupported("'^' inside a group");
    } else if (top) {
      parts.push_back(anything());
    }
    bool anchored = false;
    while (!in_.at_end() && in_.peek() != '|' && in_.peek() != ')') {
      if (in_.take("$")) {
        if (!top || (!in_.at_end() && in_.peek() != '|')) return unsupported("'$' before the end");
        anchored = true;
        break;
      }
      TROUPE_TRY(const rule one, atom(depth));
      TROUPE_TRY(const auto times, read_repetition(in_));
      if (times) {
        if (in_.peek() == '+') return unsupported("a possessive quantifier");
        in_.take("?");  // a lazy one matches the same texts
        if (in_.peek() == '*' || in_.peek() == '+' || in_.peek() == '?')
          return wrong("a quantifier follows another");
      }
      parts.push_back(times ? to_.repeat(one, times->least, times->most) : one);
    }
    if (top && !anchored) parts.push_back(anything());
    return to_.sequence(parts);
  }

  rule_result atom(int depth) {
    if (in_.take("(")) {
      if (in_.take("?")) {
        if (in_.take("<") || in_.take("P<")) {
          if (in_.peek() == '=' || in_.peek() == '!') return unsupported("look-behind");
          while (in_.peek() != '>')
            if (!in_.character()) return wrong("a group's name does not end");
          in_.take(">");
        } else if (!in_.take(":")) {
          return unsupported("(?" + std::string(1, in_.peek()));
        }
      }
      TROUPE_TRY(const rule inside, alternatives(depth + 1));
      if (!in_.take(")")) return wrong("a '(' has no ')'");
      return inside;
    }
    if (in_.take("[")) return bracket();
    if (in_.take(".")) return characters(complement({{'\n', '\n'}}));
    if (in_.peek() == '*' || in_.peek() == '+' || in_.peek() == '?')
      return wrong("nothing is there to repeat");
    TROUPE_TRY(const code_points one, element());
    return characters(one);
  }

  // One character or a class of them.
  result<code_points> element() {
    if (in_.take("\\")) return escape();
    const auto c = in_.character();
    if (!c) return wrong("this is not UTF-8");
    return code_points{{*c, *c}};
  }

  result<code_points> escape() {
    const auto one = [](char32_t c) { return code_points{{c, c}}; };
    const auto c = in_.character();
    if (!c) return wrong("nothing follows '\\'");
    std::optional<char32_t> given;
    switch (*c) {
      case 'd':
        return digits;
      case 'D':
        return complement(digits);
      case 'w':
        return word;
      case 'W':
        return complement(word);
      case 's':
        return space;
      case 'S':
        return complement(space);
      case 'n':
        return one('\n');
      case 'r':
        return one('\r');
      case 't':
        return one('\t');
      case 'f':
        return one('\f');
      case 'v':
        return one('\v');
      case 'x':
        given = in_.hexadecimal(2);
        break;
      case 'u':
        given = in_.hexadecimal(4);
        break;
      default:
        if (*c >= '1' && *c <= '9') return unsupported("a back reference");
        if (*c < 128 && std::isalnum(static_cast<int>(*c)))
          return unsupported("\\" + std::string(1, static_cast<char>(*c)));
        return one(*c);
    }
    if (!given) return wrong("hexadecimal digits are missing");
    return one(*given);
  }

  rule_result bracket() {
    const bool negated = in_.take("^");
    code_points set;
    for (bool first = true; first || in_.peek() != ']'; first = false) {
      if (in_.at_end()) return wrong("a '[' has no ']'");
      if (in_.peek() == '[' && in_.peek(1) == ':') return unsupported("a POSIX class");
      TROUPE_TRY(code_points low, element());
      if (in_.peek() == '-' && in_.peek(1) != ']' && in_.peek(1) != '\0') {
        in_.take("-");
        TROUPE_TRY(const code_points high, element());
        if (low.size() != 1 || high.size() != 1 || low[0].first != low[0].second ||
            high[0].first != high[0].second || low[0].first > high[0].first)
          return wrong("a range of characters is upside down");
        low[0].second = high[0].first;
      }
      set.insert(set.end(), low.begin(), low.end());
    }
    in_.take("]");
    return characters(negated ? complement(set) : set);
  }

  grammar_builder& to_;
  character_reader in_;
  const bool json_;
};

}  // namespace

rule_result add_regex(grammar_builder& to, std::string_view expression, bool inside_json_string) {
  return regex_parser(to, expression, inside_json_string).parse();
}

}  // namespace troupe::engine::structured
