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

// A form and the field that asks for it, which is what errors name.
struct asked_form {
  engine::structured::answer_format format;
  std::string field;
};

// At most one of the fields; whether the form can be kept is check_form's to say.
void read_answer_format(field_reader& in, asked_form& to);
// Compiles a form, which tells whether it can be kept, and tells the observer: once a request. Where the form holds another
// one of the request's own, errors are laid to that if they are its.
api_result<void> check_form(const asked_form& form, const form_observer& observer,
                            const asked_form* inside = nullptr);

}  // namespace troupe::api
