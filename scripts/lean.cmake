# What does hybrid leave out of the build of llama.cpp? Everything behind its C API.
#
# CMake includes this right after llama-cpp-python's project() (CMAKE_PROJECT_llama_cpp_INCLUDE). Plain variables, because
# its CMakeLists.txt forces the cache entry: a plain one goes before it under the policies CMP0077 and CMP0126.

# 57 of 140 compile steps: argument parsing, downloads and chat formats for llama.cpp's own programs.
set(LLAMA_BUILD_COMMON OFF)

# A wheel holds no symlinks, so each library would be packed three times (.so, .so.0, .so.0.1.2).
set(CMAKE_PLATFORM_NO_VERSIONED_SONAME TRUE)

# llama.cpp would install its own copy beside the one that is imported.
set(CMAKE_INSTALL_BINDIR llama_cpp/lib)
set(CMAKE_INSTALL_LIBDIR llama_cpp/lib)
set(CMAKE_INSTALL_INCLUDEDIR llama_cpp/include)
