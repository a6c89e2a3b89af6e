// The arguments of a call that stand one by one between tags (engine/structured/tagged_parameters), to a JSON object, piece
// by piece as they arrive. One call, one thread.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "engine/structured/tagged_parameters.hpp"

namespace troupe::api {

using parameter_forms = std::map<std::string, engine::structured::parameter_form>;

class parameter_reader {
 public:
  // `forms` of the called tool outlives the reader.
  explicit parameter_reader(const parameter_forms& forms) : forms_(&forms) {}

  // Moves what is certain from the front of `held` to the end of `json`. True: the object is whole.
  bool take(std::string& held, std::string& json);

 private:
  bool read_tag(std::string& held, std::string& json);
  bool read_value(std::string& held, std::string& json);
  void add_text(std::string_view text, std::string& json);

  const parameter_forms* forms_;
  engine::structured::parameter_form form_ = engine::structured::parameter_form::json;
  bool in_value_ = false, quoted_ = false, any_ = false, whole_ = false;
};

}  // namespace troupe::api
