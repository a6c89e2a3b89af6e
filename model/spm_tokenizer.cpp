#include "model/spm_tokenizer.hpp"

#include <algorithm>
#include <limits>
#include <queue>

#include "model/metadata.hpp"
#include "model/unicode.hpp"

namespace troupe::model {
namespace {

constexpr std::string_view space_mark = "\xE2\x96\x81";  // U+2581

// The byte of "<0xAB>", strictly: "<0x-1>" and "<0xA>" are not bytes.
std::optional<unsigned char> parse_byte_token(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return std::nullopt;
  int value = 0;
  for (const char c : text.substr(3, 2)) {
    if (c >= '0' && c <= '9') {
      value = value * 16 + (c - '0');
    } else if (c >= 'A' && c <= 'F') {
      value = value * 16 + (c - 'A' + 10);
    } else {
      return std::nullopt;
    }
  }
  return static_cast<unsigned char>(value);
}

bool is_mergeable(token_kind kind) {
  return kind == token_kind::normal || kind == token_kind::user_defined;
}

// U+2581 after another character than U+2581.
bool has_inner_space(std::string_view text) {
  bool in_word = false;
  while (!text.empty()) {
    const bool space = text.starts_with(space_mark);
    if (space && in_word) return true;
    in_word = in_word || !space;
    text.remove_prefix(space ? space_mark.size() : 1);
  }
  return false;
}

}  // namespace

// A link of the list of symbols; the text is a range of the run.
struct spm_tokenizer::symbol {
  std::uint32_t start = 0, length = 0;  // length 0: merged into an earlier one
  std::uint32_t previous = 0, next = 0;
};

result<std::shared_ptr<const tokenizer>> spm_tokenizer::make(tokenizer_vocab vocab,
                                                             bool add_space_prefix) {
  TROUPE_ASSERT(vocab.scores().size() == vocab.size());
  std::array<std::optional<token_id>, 256> byte_tokens;
  for (token_id id = 0; id < vocab.size(); ++id) {
    if (vocab.kind(id) != token_kind::byte) continue;
    const auto byte = parse_byte_token(vocab.text(id));
    if (!byte)
      return fail(ec::corrupt_file, "token " + std::to_string(id) + " '" + vocab.text(id) +
                                        "' is of type byte, but not one of <0x00> to <0xFF>");
    byte_tokens[*byte] = id;
  }
  return std::shared_ptr<const tokenizer>(
      new spm_tokenizer(std::move(vocab), add_space_prefix, byte_tokens));
}

spm_tokenizer::spm_tokenizer(tokenizer_vocab from, bool add_space_prefix,
                             const std::array<std::optional<token_id>, 256>& byte_tokens)
    : tokenizer_base(std::move(from), true),
      add_space_prefix_(add_space_prefix),
      byte_tokens_(byte_tokens) {
  for (token_id id = 0; id < vocab().size(); ++id) {
    if (!is_mergeable(vocab().kind(id))) continue;
    max_length_ = std::max(max_length_, vocab().text(id).size());
    if (has_inner_space(vocab().text(id))) space_starts_tokens_ = false;
  }
}

std::optional<token_id> spm_tokenizer::mergeable(std::string_view text) const {
  if (text.size() > max_length_) return std::nullopt;
  const auto id = vocab().find(text);
  return id && is_mergeable(vocab().kind(*id)) ? id : std::nullopt;
}

void spm_tokenizer::encode_text(std::string_view text, bool starts,
                                std::vector<token_id>& out) const {
  std::string marked;
  marked.reserve(text.size() + text.size() / 2);
  if (starts && add_space_prefix_) marked += space_mark;
  for (const char c : text) {
    if (c == ' ') {
      marked += space_mark;
    } else {
      marked.push_back(c);
    }
  }
  std::string_view rest = marked;
  while (!rest.empty()) {
    std::size_t end = rest.size();
    if (space_starts_tokens_) {
      // One run: spaces, then the word up to the next space.
      std::size_t word = 0;
      while (rest.substr(word).starts_with(space_mark)) word += space_mark.size();
      end = std::min(rest.find(space_mark, word), rest.size());
    }
    encode_run(rest.substr(0, end), out);
    rest.remove_prefix(end);
  }
}

void spm_tokenizer::merge(std::string_view run, std::vector<symbol>& symbols) const {
  constexpr std::uint32_t none = std::numeric_limits<std::uint32_t>::max();
  struct candidate {
    float score;
    std::uint32_t left, right, length;  // length of both: tells stale ones
    bool operator<(const candidate& other) const {
      return score != other.score ? score < other.score : left > other.left;
    }
  };
  std::priority_queue<candidate> queue;
  const auto offer = [&](std::uint32_t left) {
    if (left == none || symbols[left].next == none) return;
    const std::uint32_t right = symbols[left].next;
    const std::uint32_t length = symbols[left].length + symbols[right].length;
    const auto id = mergeable(run.substr(symbols[left].start, length));
    if (id) queue.push({vocab().scores()[*id], left, right, length});
  };
  const auto count = static_cast<std::uint32_t>(symbols.size());
  for (std::uint32_t i = 0; i < count; ++i) {
    symbols[i].previous = i == 0 ? none : i - 1;
    symbols[i].next = i + 1 == count ? none : i + 1;
  }
  for (std::uint32_t i = 0; i < count; ++i) offer(i);
  while (!queue.empty()) {
    const candidate top = queue.top();
    queue.pop();
    symbol& left = symbols[top.left];
    symbol& right = symbols[top.right];
    if (left.length == 0 || right.length == 0 || left.length + right.length != top.length) continue;
    left.length += right.length;
    right.length = 0;
    left.next = right.next;
    if (right.next != none) symbols[right.next].previous = top.left;
    offer(left.previous);
    offer(top.left);
  }
}

void spm_tokenizer::encode_run(std::string_view run, std::vector<token_id>& out) const {
  TROUPE_ASSERT(run.size() < std::numeric_limits<std::uint32_t>::max());
  std::vector<symbol> symbols;
  for (std::size_t at = 0; at < run.size();) {
    const std::size_t length = first_code_point(run.substr(at)).length;
    symbols.push_back({static_cast<std::uint32_t>(at), static_cast<std::uint32_t>(length)});
    at += length;
  }
  merge(run, symbols);
  for (const symbol& one : symbols) {
    if (one.length == 0) continue;
    const std::string_view text = run.substr(one.start, one.length);
    if (const auto id = mergeable(text)) {
      out.push_back(*id);
      continue;
    }
    for (const char c : text) {
      const auto byte = byte_tokens_[static_cast<unsigned char>(c)];
      if (byte) out.push_back(*byte);
      if (!byte && vocab().unknown) out.push_back(*vocab().unknown);
    }
  }
}

std::string spm_tokenizer::plain_bytes(token_id id) const {
  const std::string& text = vocab().text(id);
  if (vocab().kind(id) == token_kind::byte)
    return std::string(1, static_cast<char>(*parse_byte_token(text)));
  std::string out;
  for (std::string_view rest = text; !rest.empty();) {
    const bool space = rest.starts_with(space_mark);
    out.push_back(space ? ' ' : rest[0]);
    rest.remove_prefix(space ? space_mark.size() : 1);
  }
  return out;
}

result<std::shared_ptr<const tokenizer>> make_spm_tokenizer(const metadata& meta) {
  TROUPE_TRY(auto vocab, tokenizer_vocab::make(meta));
  if (vocab.scores().empty())
    return fail(
        ec::corrupt_file,
        meta.source() + ": tokenizer.ggml.model is llama, but tokenizer.ggml.scores is missing");
  TROUPE_TRY(const bool prefix, meta.get_or<bool>("tokenizer.ggml.add_space_prefix", true));
  return spm_tokenizer::make(std::move(vocab), prefix);
}

}  // namespace troupe::model
