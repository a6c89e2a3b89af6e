#include "api/choice_output.hpp"

#include <algorithm>

namespace troupe::api {
namespace {

bool contains(const std::vector<token_id>& ids, token_id id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

std::size_t code_points(std::string_view utf8) {
  return static_cast<std::size_t>(std::count_if(utf8.begin(), utf8.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

choice_output::choice_output(const model::tokenizer& tokenizer, const choice_options& options)
    : tokenizer_(tokenizer),
      options_(options),
      stops_(options.stop, options.include_stop_str_in_output) {}

bool choice_output::is_end(token_id id) const {
  if (contains(options_.stop_token_ids, id)) return !options_.include_stop_str_in_output;
  return !options_.ignore_eos && contains(tokenizer_.end_of_generation(), id);
}

choice_delta choice_output::push(engine::token_output output) {
  choice_delta delta;
  if (stops_.matched()) return delta;
  ++tokens_;
  if (is_end(output.token)) return delta;
  const bool show = !options_.skip_special_tokens || contains(options_.shown_special, output.token);
  const std::string text = utf8_.push(tokenizer_.token_bytes(output.token, show));
  if (options_.logprobs)
    pending_.push_back(
        {{std::move(output), decoded_points_}, decoded_bytes_, decoded_bytes_ + text.size()});
  decoded_bytes_ += text.size();
  decoded_points_ += code_points(text);
  if (tokens_ < options_.min_tokens)
    take(text, false, delta);
  else
    take(stops_.push(text), stops_.matched(), delta);
  return delta;
}

choice_delta choice_output::flush() {
  choice_delta delta;
  if (stops_.matched()) return delta;
  std::string rest = utf8_.flush();
  decoded_bytes_ += rest.size();
  std::string certain = stops_.push(rest);
  if (!stops_.matched()) certain += stops_.flush();
  take(certain, true, delta);
  return delta;
}

// Releases text, and the logprobs of tokens whose text is out; at the end those whose text was at
// least begun.
void choice_output::take(std::string_view certain, bool final, choice_delta& to) {
  to.text += certain;
  released_bytes_ += certain.size();
  while (!pending_.empty()) {
    auto& p = pending_.front();
    const bool out =
        stops_.matched() ? p.begin < released_bytes_ : final || p.end <= released_bytes_;
    if (!out) break;
    to.logprobs.push_back(std::move(p.entry));
    pending_.pop_front();
  }
}

}  // namespace troupe::api
