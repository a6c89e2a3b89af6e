// Identity of a model: XXH3-128 over what decides an answer.
//
// Covered: the keys of the architecture and the tokenizer (names of people, licences and the like
// are not), and name, type, shape and bytes of every tensor. The tensors are taken in the order of
// their names, each through its own hash, so that a file and its shards have one digest. Not a
// defence against forgery. Any thread.
#pragma once

#include "base/hash.hpp"
#include "model/source.hpp"

namespace troupe::model {

hash128_t digest(const model_source& source);

}  // namespace troupe::model
