// What happened underneath an answer, for `troupe run --explain`: which actor did what, and how fast. Pure function.
#pragma once

#include <string>

#include "api/completion_client.hpp"

namespace troupe::api {

std::string explain(const streamed_answer& a);

}  // namespace troupe::api
