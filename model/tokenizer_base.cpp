#include "model/tokenizer_base.hpp"

namespace troupe::model {

tokenizer_base::tokenizer_base(tokenizer_vocab vocab, bool add_bos)
    : vocab_(std::move(vocab)), special_(vocab_) {
  vocab_.add_bos = vocab_.add_bos.value_or(add_bos);
}

std::string tokenizer_base::token_bytes(token_id id, bool render_special) const {
  TROUPE_ASSERT(id < vocab_.size());
  if (vocab_.is_special(id)) return render_special ? vocab_.text(id) : std::string();
  if (vocab_.kind(id) == token_kind::user_defined) return vocab_.text(id);
  return plain_bytes(id);
}

bool tokenizer_base::is_special(token_id id) const {
  TROUPE_ASSERT(id < vocab_.size());
  return vocab_.is_special(id);
}

std::vector<token_id> tokenizer_base::encode(std::span<const text_segment> segments,
                                             bool add_special) const {
  // Segments only say where control tokens may be found: the text is encoded as one, because its
  // merges and pieces run across their borders in the prompts that the model was trained on.
  std::string joined;
  std::vector<std::size_t> borders;  // control tokens allowed in [0]..[1], [2]..[3], ...
  for (const text_segment& segment : segments) {
    if (segment.parse_special && !segment.text.empty()) {
      if (!borders.empty() && borders.back() == joined.size()) {
        borders.pop_back();
      } else {
        borders.push_back(joined.size());
      }
      borders.push_back(joined.size() + segment.text.size());
    }
    joined += segment.text;
  }
  std::vector<token_id> out;
  out.reserve(joined.size() / 3 + 2);
  if (add_special && *vocab_.add_bos && vocab_.bos) out.push_back(*vocab_.bos);
  encode_joined(joined, borders, out);
  if (add_special && vocab_.add_eos.value_or(false) && vocab_.eos) out.push_back(*vocab_.eos);
  return out;
}

void tokenizer_base::encode_joined(std::string_view text, std::span<const std::size_t> borders,
                                   std::vector<token_id>& out) const {
  std::size_t plain = 0, at = 0, next_border = 0;
  bool starts = true;
  while (at < text.size()) {
    while (next_border < borders.size() && borders[next_border] <= at) ++next_border;
    const bool allowed = next_border % 2 == 1;
    if (!special_.may_start(text[at], allowed)) {
      ++at;
      continue;
    }
    const std::size_t control_length = allowed ? borders[next_border] - at : 0;
    const auto found = special_.at_start(text.substr(at), control_length);
    if (found.length == 0) {
      ++at;
      continue;
    }
    if (at > plain) encode_text(text.substr(plain, at - plain), starts, out);
    out.push_back(found.id);
    starts = true;
    at += found.length;
    plain = at;
  }
  if (text.size() > plain) encode_text(text.substr(plain), starts, out);
}

}  // namespace troupe::model
