// GPT-2's byte alphabet: each byte is written as one printable character, so that vocabularies are
// text (https://github.com/openai/gpt-2/blob/master/src/encoder.py, bytes_to_unicode). Pure
// functions, any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace troupe::model {

// The character of a byte, in UTF-8.
std::string_view bpe_character(unsigned char byte);
// The bytes that a token's text stands for; characters outside of the alphabet stand for
// themselves.
std::string bpe_bytes(std::string_view text);
// The text of bytes.
std::string bpe_text(std::string_view bytes);

}  // namespace troupe::model
