#include <algorithm>
#include <map>
#include <string>

#include "engine/structured/answer_format.hpp"
#include "engine/structured/characters.hpp"

namespace troupe::engine::structured {
namespace {

using rule = grammar_builder::rule;

class gbnf_parser {
 public:
  gbnf_parser(grammar_builder& to, std::string_view text) : to_(to), in_(text) {}

  rule_result parse() {
    skip(true);
    while (!in_.at_end()) {
      const std::string name = read_name();
      if (name.empty()) return wrong("a rule's name is expected");
      skip(false);
      if (!in_.take("::=")) return wrong("'::=' is expected after the name " + name);
      skip(true);
      TROUPE_TRY(const rule body, alternatives(0));
      named& r = get(name);
      if (r.defined) return wrong("the rule " + name + " is defined twice");
      r.defined = true;
      to_.define(r.id, body);
      if (!in_.at_end() && in_.peek() != '\n' && in_.peek() != '\r')
        return wrong("the rule should end here");
      skip(true);
    }
    for (const auto& [name, r] : rules_)
      if (!r.defined)
        return fail(ec::invalid_argument, "grammar: the rule " + name + " is used but not defined");
    const auto root = rules_.find("root");
    if (root == rules_.end()) return fail(ec::invalid_argument, "grammar: there is no rule root");
    return root->second.id;
  }

 private:
  struct named {
    rule id = 0;
    bool defined = false;
  };

  tl::unexpected<error> wrong(const std::string& what) const {
    return fail(ec::invalid_argument,
                "grammar, byte " + std::to_string(in_.position()) + ": " + what);
  }

  named& get(const std::string& name) {
    const auto [at, is_new] = rules_.try_emplace(name);
    if (is_new) at->second.id = to_.declare();
    return at->second;
  }

  static bool in_name(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_';
  }
  std::string read_name() {
    std::string name;
    for (; in_name(in_.peek()); in_.take(name.substr(name.size() - 1))) name += in_.peek();
    return name;
  }

  void skip(bool lines) {
    for (;;) {
      if (in_.take(" ") || in_.take("\t") || (lines && (in_.take("\n") || in_.take("\r"))))
        continue;
      if (in_.peek() != '#') return;
      while (!in_.at_end() && in_.peek() != '\n')
        in_.take(std::string_view(std::string(1, in_.peek())));
    }
  }

  // Inside parentheses and after '|' new lines are white space.
  rule_result alternatives(int depth) {
    if (depth > max_source_depth) return wrong("groups are nested too deeply");
    std::vector<rule> all;
    for (;;) {
      TROUPE_TRY(const rule one, sequence(depth));
      all.push_back(one);
      skip(depth > 0);
      if (!in_.take("|")) break;
      skip(true);
    }
    return all.size() == 1 ? all.front() : to_.choice(all);
  }

  rule_result sequence(int depth) {
    std::vector<rule> parts;
    for (;;) {
      skip(depth > 0);
      const char c = in_.peek();
      if (in_.at_end() || c == '|' || c == ')' || c == '\n' || c == '\r') break;
      rule one = 0;
      if (in_.take("\"")) {
        TROUPE_TRY(one, literal());
      } else if (in_.take("[")) {
        TROUPE_TRY(one, bracket());
      } else if (in_.take(".")) {
        one = to_.one_of({{0, last_code_point}});
      } else if (in_.take("(")) {
        skip(true);
        TROUPE_TRY(one, alternatives(depth + 1));
        skip(true);
        if (!in_.take(")")) return wrong("a '(' has no ')'");
      } else if (in_name(c)) {
        one = get(read_name()).id;
      } else {
        return wrong("a literal, a class, a group or a name is expected");
      }
      TROUPE_TRY(const auto times, read_repetition(in_));
      parts.push_back(times ? to_.repeat(one, times->least, times->most) : one);
    }
    return to_.sequence(parts);
  }

  result<char32_t> character() {
    if (!in_.take("\\")) {
      const auto c = in_.character();
      if (!c) return wrong("this is not UTF-8");
      return *c;
    }
    const auto c = in_.character();
    if (!c) return wrong("nothing follows '\\'");
    std::optional<char32_t> given;
    switch (*c) {
      case 'n':
        return U'\n';
      case 'r':
        return U'\r';
      case 't':
        return U'\t';
      case '\\':
      case '"':
      case '[':
      case ']':
      case '-':
      case '^':
        return *c;
      case 'x':
        given = in_.hexadecimal(2);
        break;
      case 'u':
        given = in_.hexadecimal(4);
        break;
      case 'U':
        given = in_.hexadecimal(8);
        break;
      default:
        return wrong("this escape is unknown");
    }
    if (!given || *given > last_code_point)
      return wrong("hexadecimal digits of a character are expected");
    return *given;
  }

  rule_result literal() {
    std::vector<rule> parts;
    while (!in_.take("\"")) {
      if (in_.at_end()) return wrong("a literal does not end");
      TROUPE_TRY(const char32_t c, character());
      parts.push_back(to_.one_of({{c, c}}));
    }
    return to_.sequence(parts);
  }

  rule_result bracket() {
    const bool negated = in_.take("^");
    code_points set;
    while (!in_.take("]")) {
      if (in_.at_end()) return wrong("a '[' has no ']'");
      TROUPE_TRY(const char32_t first, character());
      char32_t last = first;
      if (in_.peek() == '-' && in_.peek(1) != ']') {
        in_.take("-");
        TROUPE_TRY(last, character());
        if (last < first) return wrong("a range of characters is upside down");
      }
      set.emplace_back(first, last);
    }
    return to_.one_of(negated ? complement(set) : set);
  }

  grammar_builder& to_;
  character_reader in_;
  std::map<std::string, named> rules_;
};

}  // namespace

rule_result add_gbnf(grammar_builder& to, std::string_view source) {
  return gbnf_parser(to, source).parse();
}

}  // namespace troupe::engine::structured
