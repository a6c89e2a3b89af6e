#include "model/trimmed_head.hpp"

namespace troupe::model {

result<std::vector<token_id>> output_tokens(const metadata& meta, std::uint64_t vocab_size) {
  if (!meta.contains(output_tokens_key)) return std::vector<token_id>();
  TROUPE_TRY(std::vector<token_id> tokens, meta.numbers<token_id>(output_tokens_key));
  const auto bad = [&](const char* why) {
    return fail(ec::corrupt_file,
                meta.source() + ": " + std::string(output_tokens_key) + " " + why);
  };
  if (tokens.empty()) return bad("is empty");
  for (std::size_t i = 1; i < tokens.size(); ++i)
    if (tokens[i] <= tokens[i - 1]) return bad("does not ascend");
  if (tokens.back() >= vocab_size) return bad("names a token beyond the vocabulary");
  return tokens;
}

}  // namespace troupe::model
