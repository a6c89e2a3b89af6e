// JSON schemas before they are compiled: two of them as one, and one with less in it. Any thread.
#pragma once

#include <array>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/result.hpp"

namespace troupe::engine::structured {

// Keywords that constrain and that we do not follow. Ignoring one would give answers that the schema forbids.
inline constexpr std::array refused_keywords = {"not",
                                                "if",
                                                "then",
                                                "else",
                                                "dependentRequired",
                                                "dependentSchemas",
                                                "patternProperties",
                                                "propertyNames",
                                                "minProperties",
                                                "maxProperties",
                                                "contains",
                                                "uniqueItems",
                                                "multipleOf",
                                                "unevaluatedProperties",
                                                "unevaluatedItems",
                                                "$dynamicRef",
                                                "$recursiveRef",
                                                "dependencies"};

bool annotations_only(const nlohmann::ordered_json& s);  // it constrains nothing
// What a reference ("#/$defs/a") names; null: it is no reference within `root`, or nothing is there.
const nlohmann::ordered_json* find_schema(const nlohmann::ordered_json& root,
                                          const std::string& reference);
// `into` and `from` at once: objects' properties and required names unite, other keywords may stand in one of them only.
result<void> merge_schema(nlohmann::ordered_json& into, const nlohmann::ordered_json& from,
                          const nlohmann::ordered_json& root, const std::string& path);
// Without some of what could not be kept, less each time; parts inside it were loosened already.
nlohmann::ordered_json loosened(const nlohmann::ordered_json& s);

}  // namespace troupe::engine::structured
