#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/pretokenizer.hpp"

#include <pcre2.h>

#include <array>

#include "model/unicode.hpp"

namespace troupe::model {
namespace {

struct code_deleter {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct match_data_deleter {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

std::string pcre2_error(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

// PCRE2's \s counts U+180E as a space, Unicode since 6.3 and the reference do not. Rewrites \s and
// \S.
std::string with_unicode_spaces(std::string_view pattern) {
  static constexpr std::string_view spaces =
      R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
  std::string out;
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char next = pattern[++i];
      if (next == 's' && in_class) {
        out += spaces;
      } else if ((next == 's' || next == 'S') && !in_class) {
        ((out += next == 's' ? "[" : "[^") += spaces) += ']';
      } else {
        (out += c) += next;
      }
      continue;
    }
    if (c == '[') in_class = true;
    if (c == ']') in_class = false;
    out += c;
  }
  return out;
}

}  // namespace

struct pretokenizer::stage {
  std::unique_ptr<pcre2_code, code_deleter> code;
  bool jit = false;

  // Start and end of the first match at or after `from`; start == end: none.
  std::pair<std::size_t, std::size_t> match(std::string_view text, std::size_t from,
                                            pcre2_match_data* data) const {
    // The text is valid UTF-8 by construction; checking it in each call would be quadratic.
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    const int rc = jit ? pcre2_jit_match(code.get(), subject, text.size(), from, 0, data, nullptr)
                       : pcre2_match(code.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK,
                                     data, nullptr);
    // A match limit that was hit is taken for no match: the rest becomes one piece, which is
    // slower, never unsafe.
    if (rc <= 0) return {text.size(), text.size()};
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data);
    return {range[0], range[1]};
  }

  void split(std::string_view text, pcre2_match_data* data,
             std::vector<std::size_t>& lengths) const {
    for (std::size_t at = 0; at < text.size();) {
      const auto [start, end] = match(text, at, data);
      if (start > at) lengths.push_back(start - at);
      if (end > start) lengths.push_back(end - start);
      at = end > start ? end : text.size();
      if (end <= start && start < text.size()) lengths.push_back(text.size() - start);
    }
  }
};

pretokenizer::pretokenizer(std::vector<stage> stages) : stages_(std::move(stages)) {}
pretokenizer::~pretokenizer() = default;

result<std::unique_ptr<const pretokenizer>> pretokenizer::make(
    std::span<const std::string> patterns) {
  std::vector<stage> stages;
  for (const std::string& pattern : patterns) {
    const std::string exact = with_unicode_spaces(pattern);
    int code = 0;
    PCRE2_SIZE offset = 0;
    stage next;
    next.code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(exact.data()), exact.size(),
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &offset,
                                  nullptr));
    if (!next.code)
      return fail(ec::unsupported, "pre-tokenizer pattern '" + pattern +
                                       "' is not understood: " + pcre2_error(code));
    next.jit = pcre2_jit_compile(next.code.get(), PCRE2_JIT_COMPLETE) == 0;
    stages.push_back(std::move(next));
  }
  return std::unique_ptr<const pretokenizer>(new pretokenizer(std::move(stages)));
}

void pretokenizer::split_valid(std::string_view text, std::vector<std::size_t>& lengths) const {
  if (stages_.empty()) {
    lengths.push_back(text.size());
    return;
  }
  std::unique_ptr<pcre2_match_data, match_data_deleter> data(pcre2_match_data_create(1, nullptr));
  TROUPE_ASSERT(data != nullptr);
  if (stages_.size() == 1) {
    stages_[0].split(text, data.get(), lengths);
    return;
  }
  std::vector<std::size_t> pieces{text.size()}, finer;
  for (const stage& next : stages_) {
    finer.clear();
    std::size_t at = 0;
    for (const std::size_t length : pieces) {
      next.split(text.substr(at, length), data.get(), finer);
      at += length;
    }
    pieces.swap(finer);
  }
  lengths.insert(lengths.end(), pieces.begin(), pieces.end());
}

void pretokenizer::split(std::string_view text, std::vector<std::size_t>& lengths) const {
  while (!text.empty()) {
    const std::size_t valid = valid_utf8_length(text);
    if (valid > 0) split_valid(text.substr(0, valid), lengths);
    text.remove_prefix(valid);
    if (text.empty()) break;
    lengths.push_back(1);
    text.remove_prefix(1);
  }
}

}  // namespace troupe::model
