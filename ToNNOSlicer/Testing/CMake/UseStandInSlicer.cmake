# Copy files into the build tree and install them from there, subfolders kept. A missing file is an error, as is an
# argument that is not modelled here.
include(CTest)

function(ctkMacroCompilePythonScript)
  cmake_parse_arguments(own "NO_INSTALL_SUBDIR" "TARGET_NAME;DESTINATION_DIR;INSTALL_DIR" "SCRIPTS;RESOURCES" ${ARGN})
  if(own_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "ctkMacroCompilePythonScript: '${own_UNPARSED_ARGUMENTS}' is not modelled by the stand-in")
  endif()
  foreach(name TARGET_NAME DESTINATION_DIR INSTALL_DIR SCRIPTS)
    if(NOT own_${name})
      message(FATAL_ERROR "ctkMacroCompilePythonScript: ${name} is missing")
    endif()
  endforeach()
  if(NOT own_NO_INSTALL_SUBDIR)
    message(FATAL_ERROR "ctkMacroCompilePythonScript: without NO_INSTALL_SUBDIR the files are installed elsewhere")
  endif()
  set(copies)
  foreach(file ${own_SCRIPTS} ${own_RESOURCES})
    set(source "${CMAKE_CURRENT_SOURCE_DIR}/${file}")
    if(NOT EXISTS "${source}")
      message(FATAL_ERROR "${own_TARGET_NAME}: ${file} is listed, but there is no such file")
    endif()
    add_custom_command(
      OUTPUT "${own_DESTINATION_DIR}/${file}"
      COMMAND ${CMAKE_COMMAND} -E copy "${source}" "${own_DESTINATION_DIR}/${file}"
      DEPENDS "${source}"
      VERBATIM)
    list(APPEND copies "${own_DESTINATION_DIR}/${file}")
    get_filename_component(folder "${file}" DIRECTORY)
    install(FILES "${own_DESTINATION_DIR}/${file}" DESTINATION "${own_INSTALL_DIR}/${folder}")
  endforeach()
  add_custom_target(Copy${own_TARGET_NAME} ALL DEPENDS ${copies})
endfunction()

function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(own "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(own_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "slicerMacroBuildScriptedModule: '${own_UNPARSED_ARGUMENTS}' is not modelled by the stand-in")
  endif()
  ctkMacroCompilePythonScript(
    TARGET_NAME ${own_NAME}
    SCRIPTS "${own_SCRIPTS}"
    RESOURCES "${own_RESOURCES}"
    DESTINATION_DIR "${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR}"
    INSTALL_DIR "${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR}"
    NO_INSTALL_SUBDIR)
endfunction()

function(slicer_add_python_unittest)
  cmake_parse_arguments(own "" "SCRIPT" "" ${ARGN})
  if(NOT EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${own_SCRIPT}")
    message(FATAL_ERROR "slicer_add_python_unittest: there is no ${own_SCRIPT}")
  endif()
endfunction()
