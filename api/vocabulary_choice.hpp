// Which tokens a draft's output keeps: those that every answer may need (special tokens and ends), then those that given texts
// have most often, then those with the lowest numbers, which tokenizers that merge by frequency give to the most frequent.
//
// Plain function, any thread.
#pragma once

#include <string>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "model/tokenizer.hpp"

namespace troupe::api {

// `count` tokens, ascending. ec::invalid_argument: more than there are, or fewer than answers need.
result<std::vector<token_id>> choose_vocabulary(const model::tokenizer& tokenizer,
                                                std::size_t count,
                                                const std::vector<std::string>& texts);

}  // namespace troupe::api
