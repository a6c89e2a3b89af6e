// Filling in the middle: models for code that know text before and behind the cursor, by three tokens of their vocabulary
// (Bavarian et al., 2207.14255). Any thread.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "model/metadata.hpp"
#include "model/tokenizer.hpp"

namespace troupe::model {

struct infill_tokens {
  token_id prefix = 0, suffix = 0, middle = 0;
};

// As the file names them, else by the texts that families of models use; nullopt: this vocabulary has none.
std::optional<infill_tokens> find_infill_tokens(const tokenizer& t, const metadata& meta);

// <prefix>before<suffix>behind<middle>: what the model continues with what belongs between.
std::vector<token_id> infill_prompt(const tokenizer& t, const infill_tokens& tokens,
                                    std::string_view before, std::string_view behind,
                                    bool add_special);

}  // namespace troupe::model
