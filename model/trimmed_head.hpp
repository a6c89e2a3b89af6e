// A model whose output is of some tokens only: a draft need not weigh tokens that hardly ever come, and in a small model the
// output matrix is a large part of what a step reads. The tokenizer and the embeddings are whole, so that it reads any text.
//
// In the file: output.weight has fewer rows, and the key below says which token each of them is of.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "model/metadata.hpp"

namespace troupe::model {

inline constexpr std::string_view output_tokens_key = "troupe.output_tokens";

// Ascending, below vocab_size; empty: the output is of every token. ec::corrupt_file
result<std::vector<token_id>> output_tokens(const metadata& meta, std::uint64_t vocab_size);

}  // namespace troupe::model
