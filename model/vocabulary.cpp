#include "model/vocabulary.hpp"

namespace troupe::model {

hash128_t vocabulary_digest(const tokenizer& t) {
  hash128_stream h;
  for (std::size_t id = 0; id < t.vocab_size(); ++id) {
    const auto token = static_cast<token_id>(id);
    const std::string bytes = t.token_bytes(token, true);
    const std::uint32_t head[2] = {static_cast<std::uint32_t>(bytes.size()),
                                   t.is_special(token) ? 1u : 0u};
    h.update(std::as_bytes(std::span(head)));
    h.update(std::as_bytes(std::span(bytes)));
  }
  return h.digest();
}

}  // namespace troupe::model
