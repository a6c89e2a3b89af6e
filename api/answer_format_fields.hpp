// The fields of a request body that say what form the answer must have: OpenAI's response_format, vLLM's structured_outputs
// and guided_*, llama.cpp's grammar and json_schema. Plain functions, any thread.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string_view>

#include "api/json_input.hpp"
#include "engine/structured/answer_format.hpp"

namespace troupe::api {

// Told of each form that was checked: whether it is kept, and how long that took to find out. May be empty.
using form_observer =
    std::function<void(engine::structured::format_kind form, bool kept, double seconds)>;

// A JSON object's properties are answered in the order in which a schema lists them, which `body` has lost: each schema in
// it is replaced by its own text in `raw`, from which body was parsed.
void keep_schema_order(nlohmann::json& body, std::string_view raw);

// At most one of the fields, and a form that can be kept: anything else fails with the field's name.
void read_answer_format(field_reader& in, engine::structured::answer_format& to,
                        const form_observer& observer);
// The same for a form that is made already; `field` is what errors name.
api_result<void> check_form(const engine::structured::answer_format& form, std::string_view field,
                            const form_observer& observer);

}  // namespace troupe::api
