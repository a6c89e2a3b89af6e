// What the token ids of a model mean, as one number: models whose digests are equal can guess for each other. Any thread.
#pragma once

#include "base/hash.hpp"
#include "model/tokenizer.hpp"

namespace troupe::model {

// Of the bytes of every token, in order, and of which are special. Some milliseconds.
hash128_t vocabulary_digest(const tokenizer& t);

}  // namespace troupe::model
