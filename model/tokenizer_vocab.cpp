#include "model/tokenizer_vocab.hpp"

#include <algorithm>
#include <array>
#include <span>

#include "model/metadata.hpp"

namespace troupe::model {
namespace {

// A vocabulary beyond this is a damaged count, not a model.
constexpr std::size_t max_tokens = 1u << 24;

// Texts under which model families end a turn; files often name only one of them as eos.
constexpr std::array<std::string_view, 9> end_texts = {
    "<|eot_id|>",    "<|im_end|>", "<|end|>",         "<end_of_turn>",
    "<|endoftext|>", "<|eom_id|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>",
    "<EOT>"};

result<std::optional<token_id>> read_id(const metadata& meta, std::string_view key,
                                        std::size_t size) {
  if (!meta.contains(key)) return std::optional<token_id>();
  // Files write -1 (as u32 or i32) for none.
  TROUPE_TRY(const auto id, meta.get<std::int64_t>(key));
  if (id == -1 || id == 0xFFFFFFFF) return std::optional<token_id>();
  if (id < 0 || static_cast<std::uint64_t>(id) >= size)
    return fail(ec::corrupt_file, meta.source() + ": " + std::string(key) + " is " +
                                      std::to_string(id) + ", but the vocabulary has " +
                                      std::to_string(size) + " tokens");
  return std::optional<token_id>(static_cast<token_id>(id));
}

result<std::optional<bool>> read_flag(const metadata& meta, std::string_view key) {
  if (!meta.contains(key)) return std::optional<bool>();
  TROUPE_TRY(const auto flag, meta.get<bool>(key));
  return std::optional<bool>(flag);
}

result<std::vector<token_kind>> read_kinds(const metadata& meta, std::size_t size) {
  constexpr std::string_view key = "tokenizer.ggml.token_type";
  std::vector<token_kind> kinds(size, token_kind::normal);
  if (!meta.contains(key)) return kinds;
  TROUPE_TRY(const auto numbers, meta.numbers<std::int32_t>(key));
  if (numbers.size() != size)
    return fail(ec::corrupt_file, meta.source() + ": " + std::string(key) + " has " +
                                      std::to_string(numbers.size()) + " entries for " +
                                      std::to_string(size) + " tokens");
  for (std::size_t i = 0; i < size; ++i) {
    if (numbers[i] < 0 || numbers[i] > 6)
      return fail(ec::corrupt_file, meta.source() + ": " + std::string(key) + "[" +
                                        std::to_string(i) + "] is " + std::to_string(numbers[i]) +
                                        ", not a token type");
    if (numbers[i] > 0) kinds[i] = static_cast<token_kind>(numbers[i]);
  }
  return kinds;
}

}  // namespace

result<tokenizer_vocab> tokenizer_vocab::make(const metadata& meta) {
  tokenizer_vocab vocab;
  TROUPE_TRY(const auto texts, meta.strings("tokenizer.ggml.tokens"));
  vocab.texts_.assign(texts.begin(), texts.end());
  TROUPE_TRY(vocab.kinds_, read_kinds(meta, texts.size()));
  if (meta.contains("tokenizer.ggml.scores")) {
    TROUPE_TRY(vocab.scores_, meta.numbers<float>("tokenizer.ggml.scores"));
    if (vocab.scores_.size() != texts.size())
      return fail(ec::corrupt_file, meta.source() + ": tokenizer.ggml.scores has " +
                                        std::to_string(vocab.scores_.size()) + " entries for " +
                                        std::to_string(texts.size()) + " tokens");
  }
  TROUPE_CHECK(vocab.index());
  TROUPE_CHECK(vocab.read_special(meta));
  return vocab;
}

result<tokenizer_vocab> tokenizer_vocab::make(const metadata& meta, std::vector<std::string> texts,
                                              std::vector<token_kind> kinds) {
  TROUPE_ASSERT(texts.size() == kinds.size());
  tokenizer_vocab vocab;
  vocab.texts_ = std::move(texts);
  vocab.kinds_ = std::move(kinds);
  TROUPE_CHECK(vocab.index());
  TROUPE_CHECK(vocab.read_special(meta));
  return vocab;
}

result<void> tokenizer_vocab::index() {
  if (texts_.empty() || texts_.size() > max_tokens)
    return fail(ec::corrupt_file,
                "a vocabulary of " + std::to_string(texts_.size()) + " tokens cannot be right");
  ids_.reserve(texts_.size());
  for (std::size_t i = 0; i < texts_.size(); ++i)
    if (!texts_[i].empty()) ids_.emplace(texts_[i], static_cast<token_id>(i));
  return {};
}

result<void> tokenizer_vocab::read_special(const metadata& meta) {
  TROUPE_TRY(bos, read_id(meta, "tokenizer.ggml.bos_token_id", size()));
  TROUPE_TRY(eos, read_id(meta, "tokenizer.ggml.eos_token_id", size()));
  TROUPE_TRY(unknown, read_id(meta, "tokenizer.ggml.unknown_token_id", size()));
  TROUPE_TRY(add_bos, read_flag(meta, "tokenizer.ggml.add_bos_token"));
  TROUPE_TRY(add_eos, read_flag(meta, "tokenizer.ggml.add_eos_token"));
  std::vector<token_id> named;
  if (eos) named.push_back(*eos);
  for (const std::string_view key :
       {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    TROUPE_TRY(const auto id, read_id(meta, key, size()));
    if (id) named.push_back(*id);
  }
  if (meta.contains(metadata_keys::hf_eos_token_ids)) {
    TROUPE_TRY(const auto ids, meta.numbers<std::uint32_t>(metadata_keys::hf_eos_token_ids));
    for (const token_id id : ids)
      if (id < size()) named.push_back(id);
  }
  collect_end_of_generation(named);
  return {};
}

void tokenizer_vocab::collect_end_of_generation(std::span<const token_id> named) {
  const auto add = [this](token_id id) {
    if (std::ranges::find(end_of_generation, id) == end_of_generation.end())
      end_of_generation.push_back(id);
  };
  for (const token_id id : named) add(id);
  for (const std::string_view text : end_texts) {
    const auto id = find(text);
    if (id && kind(*id) == token_kind::control) add(*id);
  }
}

std::optional<token_id> tokenizer_vocab::find(std::string_view text) const {
  const auto it = ids_.find(text);
  return it == ids_.end() ? std::nullopt : std::optional(it->second);
}

special_token_finder::special_token_finder(const tokenizer_vocab& vocab) {
  for (token_id id = 0; id < vocab.size(); ++id) {
    const bool control = vocab.is_special(id);
    if (control || vocab.kind(id) == token_kind::user_defined) add(vocab.text(id), id, control);
  }
}

std::uint32_t special_token_finder::child_of(std::uint32_t parent, unsigned char byte) const {
  std::uint32_t at = nodes_[parent].child;
  while (at != 0 && nodes_[at].byte != byte) at = nodes_[at].sibling;
  return at;
}

void special_token_finder::add(std::string_view text, token_id id, bool control) {
  if (text.empty()) return;
  starts_[static_cast<unsigned char>(text[0])] |= control ? 2 : 1;
  std::uint32_t at = 0;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    std::uint32_t next = child_of(at, byte);
    if (next == 0) {
      next = static_cast<std::uint32_t>(nodes_.size());
      nodes_.push_back({.sibling = nodes_[at].child, .byte = byte});
      nodes_[at].child = next;
    }
    at = next;
  }
  if (nodes_[at].ends) return;  // of equal texts the first
  nodes_[at].ends = true;
  nodes_[at].control = control;
  nodes_[at].id = id;
}

special_token_finder::match special_token_finder::at_start(std::string_view text,
                                                           std::size_t control_length) const {
  match best;
  std::uint32_t at = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    at = child_of(at, static_cast<unsigned char>(text[i]));
    if (at == 0) break;
    if (nodes_[at].ends && (!nodes_[at].control || i < control_length))
      best = {i + 1, nodes_[at].id};
  }
  return best;
}

}  // namespace troupe::model
