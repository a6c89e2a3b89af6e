#include "model/jinja_lexer.hpp"

#include <algorithm>
#include <array>

#include "model/unicode.hpp"

namespace troupe::model::jinja {
namespace {

constexpr std::string_view whitespace = " \t\n\r\f\v";

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
bool is_name_part(char c) {
  return is_name_start(c) || is_digit(c);
}

// \r\n and \r become \n; one newline at the end goes.
std::string normalized(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      if (i + 1 < source.size() && source[i + 1] == '\n') continue;
      out.push_back('\n');
    } else {
      out.push_back(source[i]);
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

class lexer {
 public:
  explicit lexer(std::string_view source) : source_(normalized(source)) {}
  result<std::vector<token>> run();

 private:
  std::string_view rest() const { return std::string_view(source_).substr(at_); }
  bool sees(std::string_view what) const { return rest().starts_with(what); }
  position here() const { return {line_, static_cast<std::uint32_t>(at_ - line_start_ + 1)}; }
  void advance(std::size_t count);
  void skip_whitespace() { advance(std::min(rest().find_first_not_of(whitespace), rest().size())); }
  tl::unexpected<error> wrong(position at, std::string what) const {
    return fail(ec::invalid_argument, "template, " + to_string(at) + ": " + std::move(what));
  }
  void add(token_type type, std::string text, position at) {
    tokens_.push_back({type, std::move(text), at});
  }
  void add_text(std::string_view text, position at, char sign, bool is_output);
  void end_tag(char sign, std::size_t length, bool trim_newline);

  result<void> comment();
  result<bool> raw();
  result<void> tag(bool is_output);
  result<void> tag_token(std::string& brackets);
  result<void> string_token();
  result<void> number_token();
  result<void> operator_token(std::string& brackets);
  void escape(std::string& out);
  bool code_point_escape(std::size_t digits, std::string& out);

  std::string source_;
  std::size_t at_ = 0, line_start_ = 0;
  std::uint32_t line_ = 1;
  bool line_starting_ =
      true;  // the text here begins a line, perhaps after a newline that a tag took
  std::vector<token> tokens_;
};

void lexer::advance(std::size_t count) {
  for (const std::size_t stop = at_ + count; at_ < stop; ++at_) {
    if (source_[at_] != '\n') continue;
    ++line_;
    line_start_ = at_ + 1;
  }
}

void lexer::add_text(std::string_view text, position at, char sign, bool is_output) {
  if (sign == '-') {
    text = text.substr(0, text.find_last_not_of(whitespace) + 1);
  } else if (sign != '+' && !is_output) {
    // lstrip_blocks: spaces between the start of the line and a block go.
    const std::size_t line = text.rfind('\n') + 1;
    if ((line > 0 || line_starting_) && text.find_first_not_of(whitespace, line) == text.npos)
      text = text.substr(0, line);
  }
  if (!text.empty()) add(token_type::text, std::string(text), at);
}

// Moves past the end of a tag and what whitespace it takes with it.
void lexer::end_tag(char sign, std::size_t length, bool trim_newline) {
  advance(length);
  if (sign == '-') {
    skip_whitespace();
  } else if (sign != '+' && trim_newline && sees("\n")) {
    advance(1);
  }
  line_starting_ = source_[at_ - 1] == '\n';
}

result<std::vector<token>> lexer::run() {
  while (at_ < source_.size()) {
    std::size_t open = at_;
    while ((open = source_.find('{', open)) != source_.npos) {
      const char next = open + 1 < source_.size() ? source_[open + 1] : '\0';
      if (next == '{' || next == '%' || next == '#') break;
      ++open;
    }
    const position start = here();
    if (open == source_.npos) {
      add(token_type::text, std::string(rest()), start);
      advance(rest().size());
      break;
    }
    const std::string_view before = std::string_view(source_).substr(at_, open - at_);
    const bool is_output = source_[open + 1] == '{';
    const char sign = open + 2 < source_.size() ? source_[open + 2] : '\0';
    add_text(before, start, sign, is_output);
    advance(open - at_);
    if (source_[at_ + 1] == '#') {
      TROUPE_CHECK(comment());
      continue;
    }
    TROUPE_TRY(const bool was_raw, raw());
    if (!was_raw) TROUPE_CHECK(tag(is_output));
  }
  add(token_type::end, "", here());
  return std::move(tokens_);
}

result<void> lexer::comment() {
  const position start = here();
  advance(2);
  if (sees("-") || sees("+")) advance(1);
  const std::size_t close = rest().find("#}");
  if (close == std::string_view::npos) return wrong(start, "the comment does not end");
  const char sign = close > 0 ? rest()[close - 1] : '\0';
  end_tag(sign, close + 2, true);
  return {};
}

// {% raw %} ... {% endraw %}: text as it stands.
result<bool> lexer::raw() {
  const auto keyword_tag = [this](std::size_t from, std::string_view keyword,
                                  char& sign) -> std::size_t {
    const std::string_view text = source_;
    std::size_t i = from + 2;
    if (i < text.size() && (text[i] == '-' || text[i] == '+')) ++i;
    i = std::min(text.find_first_not_of(whitespace, i), text.size());
    if (!text.substr(i).starts_with(keyword)) return 0;
    i = std::min(text.find_first_not_of(whitespace, i + keyword.size()), text.size());
    sign = i < text.size() && (text[i] == '-' || text[i] == '+') ? text[i++] : '\0';
    return text.substr(i).starts_with("%}") ? i + 2 : 0;
  };
  char sign = '\0';
  const std::size_t begin = source_[at_ + 1] == '%' ? keyword_tag(at_, "raw", sign) : 0;
  if (begin == 0) return false;
  const position start = here();
  end_tag(sign, begin - at_, false);
  for (std::size_t open = at_; (open = source_.find("{%", open)) != source_.npos; open += 2) {
    const std::size_t end = keyword_tag(open, "endraw", sign);
    if (end == 0) continue;
    add_text(std::string_view(source_).substr(at_, open - at_), here(), source_[open + 2], false);
    end_tag(sign, end - at_, true);
    return true;
  }
  return wrong(start, "raw without endraw");
}

result<void> lexer::tag(bool is_output) {
  const position start = here();
  add(is_output ? token_type::output_begin : token_type::block_begin, "", start);
  advance(2);
  if (sees("-") || (!is_output && sees("+"))) advance(1);
  const std::string_view close = is_output ? "}}" : "%}";
  std::string brackets;  // open ones: within them }} is two closing brackets
  while (at_ < source_.size()) {
    skip_whitespace();
    if (at_ == source_.size()) break;
    const char sign = sees("-") || (!is_output && sees("+")) ? source_[at_] : '\0';
    const std::size_t skip = sign == '\0' ? 0 : 1;
    if (brackets.empty() && rest().substr(skip).starts_with(close)) {
      add(is_output ? token_type::output_end : token_type::block_end, "", here());
      end_tag(sign, skip + 2, !is_output);
      return {};
    }
    TROUPE_CHECK(tag_token(brackets));
  }
  return wrong(start, is_output ? "'{{' without '}}'" : "'{%' without '%}'");
}

result<void> lexer::tag_token(std::string& brackets) {
  const char c = source_[at_];
  if (is_name_start(c)) {
    const position start = here();
    std::size_t length = 1;
    while (length < rest().size() && is_name_part(rest()[length])) ++length;
    add(token_type::name, std::string(rest().substr(0, length)), start);
    advance(length);
    return {};
  }
  if (is_digit(c)) return number_token();
  if (c == '\'' || c == '"') return string_token();
  return operator_token(brackets);
}

result<void> lexer::operator_token(std::string& brackets) {
  static constexpr std::array<std::string_view, 26> operators = {
      "//", "**", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<",
      ">",  "=",  ".",  ",",  ":",  ";",  "|", "(", ")", "[", "]", "{", "}"};
  const auto found = std::ranges::find_if(operators, [&](std::string_view o) { return sees(o); });
  if (found == operators.end()) {
    const std::size_t length = first_code_point(rest()).length;
    return wrong(here(), "'" + std::string(rest().substr(0, length)) + "' is not expected here");
  }
  const char c = found->front();
  if (c == '(' || c == '[' || c == '{') brackets.push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
  if (c == ')' || c == ']' || c == '}') {
    if (brackets.empty() || brackets.back() != c)
      return wrong(here(), "'" + std::string(*found) + "' closes nothing");
    brackets.pop_back();
  }
  add(token_type::operation, std::string(*found), here());
  advance(found->size());
  return {};
}

result<void> lexer::number_token() {
  const position start = here();
  const bool after_dot = at_ > 0 && source_[at_ - 1] == '.';  // a.0.1 is two subscripts
  std::string digits;
  const auto take_digits = [&] {
    while (at_ < source_.size() &&
           (is_digit(source_[at_]) ||
            (source_[at_] == '_' && at_ + 1 < source_.size() && is_digit(source_[at_ + 1])))) {
      if (source_[at_] != '_') digits.push_back(source_[at_]);
      advance(1);
    }
  };
  const auto digit_at = [&](std::size_t i) { return i < rest().size() && is_digit(rest()[i]); };
  take_digits();
  bool real = false;
  if (!after_dot && sees(".") && digit_at(1)) {
    real = true;
    digits.push_back('.');
    advance(1);
    take_digits();
  }
  if (!after_dot && (sees("e") || sees("E"))) {
    const std::size_t sign = rest().size() > 1 && (rest()[1] == '+' || rest()[1] == '-') ? 1 : 0;
    if (digit_at(1 + sign)) {
      real = true;
      digits += rest().substr(0, 1 + sign);
      advance(1 + sign);
      take_digits();
    }
  }
  add(real ? token_type::real : token_type::integer, std::move(digits), start);
  return {};
}

result<void> lexer::string_token() {
  const position start = here();
  const char quote = source_[at_];
  std::string out;
  advance(1);
  while (at_ < source_.size() && source_[at_] != quote) {
    if (source_[at_] == '\\' && at_ + 1 < source_.size()) {
      advance(1);
      escape(out);
    } else {
      out.push_back(source_[at_]);
      advance(1);
    }
  }
  if (at_ == source_.size()) return wrong(start, "the string does not end");
  advance(1);
  add(token_type::string, std::move(out), start);
  return {};
}

// Python's escapes; at the character after the backslash. Unknown ones stay as written.
void lexer::escape(std::string& out) {
  const char c = source_[at_];
  advance(1);
  constexpr std::string_view names = "ntrabfv0\\'\"";
  constexpr std::string_view values("\n\t\r\a\b\f\v\0\\'\"", 11);
  if (c == '\n') return;
  if (c == 'x' && code_point_escape(2, out)) return;
  if (c == 'u' && code_point_escape(4, out)) return;
  if (c == 'U' && code_point_escape(8, out)) return;
  const std::size_t found = names.find(c);
  if (found != names.npos) {
    out.push_back(values[found]);
  } else {
    (out += '\\') += c;
  }
}

bool lexer::code_point_escape(std::size_t digits, std::string& out) {
  const std::string_view hex = rest().substr(0, digits);
  if (hex.size() < digits || hex.find_first_not_of("0123456789abcdefABCDEF") != hex.npos)
    return false;
  const auto code_point = static_cast<std::uint32_t>(std::stoul(std::string(hex), nullptr, 16));
  if (code_point > 0x10FFFF || (code_point >= 0xD800 && code_point < 0xE000)) return false;
  advance(digits);
  append_utf8(out, code_point);
  return true;
}

}  // namespace

std::string to_string(position at) {
  return "line " + std::to_string(at.line) + ", column " + std::to_string(at.column);
}

result<std::vector<token>> tokenize(std::string_view source) {
  return lexer(source).run();
}

}  // namespace troupe::model::jinja
